"""Makes the calibration file from labelled pictures: `python -m vision_service.calibrate --data DIR`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from serving.errors import ExitCode, MaifsError
from vision_service.calibration import DEFAULT_FILE, Calibration
from vision_service.fitting import fit_all, out_of_fold_evidence
from vision_service.labelled import authentic_folder, read_manifest
from vision_service.laundering import CONTROLS, FORGERIES
from vision_service.observing import observe_all

FIT_RUNGS = ("native", "laundered", *CONTROLS, *FORGERIES)
"""Copies on which curves are fitted together, so that neither size nor compression can stand for a class."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    options = _parser().parse_args(arguments)
    try:
        _calibrate(options)
    except MaifsError as error:
        print(f"calibrate: {error}", file=sys.stderr)
        return error.reason.exit_code
    return ExitCode.OK


def _calibrate(options: argparse.Namespace) -> None:
    items = [item for folder in options.data for item in read_manifest(folder)]
    items += [item for argument in options.authentic for item in authentic_folder(argument)]
    records = observe_all(items, FIT_RUNGS, options.cache, processes=options.processes)
    document, fits = fit_all(records)
    Calibration.from_document(document)  # what is written must be readable
    options.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    evidence = {"groups": document["groups"], "rows": out_of_fold_evidence(records, fits)}
    options.evidence.parent.mkdir(parents=True, exist_ok=True)
    options.evidence.write_text(json.dumps(evidence), encoding="utf-8")
    print(f"{options.out}: {len(document['tests'])} tests, {len(records)} copies of {len(items)} pictures")
    for test, by_hypothesis in sorted(document["loso_cllr"].items()):
        kept = document["tests"].get(test, {})
        parts = [f"{h} Cllr {cllr:.3f}{'' if h in kept else ' (no weight)'}" for h, cllr in by_hypothesis.items()]
        print(f"  {test:40s} {', '.join(parts)}")
    print(f"{options.evidence}: out-of-fold evidence for `python -m coordinator.fit_fusion`")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m vision_service.calibrate", description=__doc__)
    parser.add_argument("--data", type=Path, action="append", default=[], required=True, metavar="DIR",
                        help="folder with manifest.csv (columns file, label, source); may be given again")  # fmt: skip
    parser.add_argument("--authentic", action="append", default=[], metavar="SOURCE=DIR",
                        help="folder of more authentic pictures without a manifest; may be given again")  # fmt: skip
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE, help="calibration file (default: the packaged one)")
    parser.add_argument("--evidence", type=Path, default=Path("build/forensics/evidence.json"),
                        help="out-of-fold evidence for fitting the fusion")  # fmt: skip
    parser.add_argument("--cache", type=Path, default=Path("build/forensics"), help="folder of cached observations")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
