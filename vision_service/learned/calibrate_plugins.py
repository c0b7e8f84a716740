"""Fits plug-ins to labelled pictures: `python -m vision_service.learned.calibrate_plugins --plugins DIR --data DIR`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.errors import ExitCode, MaifsError
from vision_service.decode import decode
from vision_service.device import choose_device
from vision_service.fitting import fit_curve, record_weights, samples_of
from vision_service.labelled import Item, Record, read_manifest
from vision_service.laundering import RUNGS
from vision_service.learned.adapter import as_test
from vision_service.learned.card import HYPOTHESES
from vision_service.learned.networks import Network
from vision_service.learned.plugins import load_plugins
from vision_service.limits import DecodeLimits
from vision_service.runner import observe

FIT_RUNGS = ("native", "laundered")
"""Fitted together, so that neither size nor compression can stand for a class."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m vision_service.learned.calibrate_plugins", description=__doc__)
    parser.add_argument("--plugins", type=Path, required=True, metavar="DIR", help="folder of plug-ins")
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="folder with manifest.csv")
    parser.add_argument("--device", default="auto", help="as the service's setting")
    options = parser.parse_args(arguments)
    try:
        plugins = load_plugins(options.plugins, choose_device(options.device))
        items = read_manifest(options.data)
        for plugin in plugins:
            print(calibration_tables(plugin, items))
    except MaifsError as error:
        print(f"calibrate_plugins: {error}", file=sys.stderr)
        return error.reason.exit_code
    return ExitCode.OK


def calibration_tables(plugin: Network, items: Sequence[Item]) -> str:
    """The tables for a plug-in's sidecar as TOML text, a comment where a class has too few pictures.

    Raises:
        MaifsError: what decoding raises.
    """
    records = [_record(plugin, item, rung) for item in items for rung in FIT_RUNGS]
    weights = record_weights(records)
    lines = [f"# {plugin.card.path.name}"]
    for hypothesis in HYPOTHESES:
        curve = fit_curve(samples_of(records, weights, plugin.card.test_id, hypothesis))
        if curve is None or curve.slope == 0:
            why = "too few pictures" if curve is None else "the score does not rise with it"
            lines.append(f"# {hypothesis}: no calibration, {why}")
            continue
        lines += [f"[calibration.{hypothesis}]"]
        lines += [f"{name} = {getattr(curve, name)}" for name in ("slope", "intercept", "n_target", "n_authentic")]
    return "\n".join(lines)


def _record(plugin: Network, item: Item, rung: str) -> Record:
    substrate = decode(RUNGS[rung](item.path.read_bytes()), DecodeLimits(), plugin.device)
    seen, _ = observe(as_test(plugin), substrate)
    entry = {"outcome": seen.outcome.value, "score": seen.score, "detected": seen.detected}
    megapixels = substrate.width_px * substrate.height_px / 1e6
    test_id = plugin.card.test_id
    return Record(item.path.name, item.label, item.source, rung, substrate.stratum, megapixels, {test_id: entry})


if __name__ == "__main__":
    sys.exit(main())
