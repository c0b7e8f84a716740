"""The forensic benchmark: `python -m benchmarks.forensics --data DIR`.

Every test, every tool and the fused system, on the original bytes and on laundered copies, beside simple baselines.
The fused figures are leave-one-source-out: calibration and fusion are fitted anew without the source that is judged.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.forensics_baselines import SUITE
from benchmarks.forensics_loso import leave_one_source_out
from benchmarks.forensics_report import markdown
from benchmarks.forensics_summary import summarise
from serving.errors import ExitCode, MaifsError, Reason
from vision_service.calibrate import FIT_RUNGS
from vision_service.labelled import Item, authentic_folder, read_manifest
from vision_service.laundering import FORGERIES, RUNGS
from vision_service.observing import TOOL_SUITES, observe_all

HEADING = """# Measured figures of the forensic tools

Made by `python -m benchmarks.forensics --data DIR --authentic SOURCE=MORE --docs docs`, MORE a folder of more camera
originals of one source (the option may be left out), DIR holding `manifest.csv` (columns file, label,
source, mask) and the pictures. Observations are cached in `build/forensics`, so a second run takes a minute.

- **Leave-one-source-out**: each picture is judged by a calibration and a fusion that were fitted without any picture of
  its source, forged copies included. Figures of tools and of the fused system are of this kind; tests are judged by
  their raw scores, which nothing was fitted to.
- **Rungs**: "native" is the file as it is; "laundered" is its copy with the longest side at most 1024 px, JPEG quality
  85 and no metadata, as sites make it. Weights are fitted on both, on unforged crops saved again, and on forgeries made
  of the authentic pictures.
- **Intervals** are 95 % Wilson; "upper 95 % bound" is the exact one-sided Clopper-Pearson bound. Both hold for pictures
  that are exchangeable with these; a new kind of source can do worse.
- **Authentic accused** counts MANIPULATED and AI_GENERATED verdicts on authentic pictures. The prior, the costs and
  the limits for AUTHENTIC are stated in `coordinator/fusion.json`. They were chosen from about 30 settings after seeing
  these leave-one-source-out verdicts, so the counts of verdicts (accusations, decided, macro-F1) are somewhat too good;
  AUC, TPR, Cllr and ECE do not depend on them.
- A test that did not run on a picture counts as silent in the rates, and is left out of its AUC.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    options = _parser().parse_args(arguments)
    try:
        _run(options)
    except MaifsError as error:
        print(f"forensics: {error}", file=sys.stderr)
        return error.reason.exit_code
    return ExitCode.OK


def _run(options: argparse.Namespace) -> None:
    rungs = _rungs(options.rungs)
    items = _items(options)
    fitted_on = observe_all(items, FIT_RUNGS, options.cache, processes=options.processes)
    judged_rungs = [*rungs, *FORGERIES]
    suites = (*TOOL_SUITES, SUITE)
    records = observe_all(items, judged_rungs, options.cache, suites=suites, processes=options.processes)
    tools_only = [record for record in records if record.rung in rungs]
    judged = leave_one_source_out(fitted_on, tools_only, processes=options.processes)
    figures = summarise(records, judged, rungs)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "forensics.json").write_text(json.dumps(figures.document, indent=1) + "\n", encoding="utf-8")
    text = markdown(figures)
    (options.out / "forensics.md").write_text(text, encoding="utf-8")
    if not options.no_plots:
        from benchmarks.forensics_figures import draw

        draw(judged, options.out)
    if options.docs:
        _publish(options, text)
    print(text)


def _publish(options: argparse.Namespace, text: str) -> None:
    """Writes the page for readers: heading and plots around the tables."""
    images = options.docs / "img"
    images.mkdir(parents=True, exist_ok=True)
    plots = sorted(options.out.glob("forensics-*.png"))
    for plot in plots:
        shutil.copyfile(plot, images / plot.name)
    pictures = "\n".join(f"![{plot.stem}](img/{plot.name})" for plot in plots)
    (options.docs / "forensics-results.md").write_text(f"{HEADING}\n{text}\n## Plots\n\n{pictures}\n", encoding="utf-8")


def _rungs(text: str) -> list[str]:
    rungs = text.split(",")
    unknown = [rung for rung in rungs if rung not in RUNGS]
    if unknown:
        raise MaifsError(Reason.INVALID_REQUEST, f"Unknown rung {', '.join(unknown)}.", f"Known: {', '.join(RUNGS)}.")
    return rungs


def _items(options: argparse.Namespace) -> list[Item]:
    items = read_manifest(options.data)
    items += [item for argument in options.authentic for item in authentic_folder(argument)]
    return items[:: max(1, len(items) // options.limit)][: options.limit] if options.limit else items


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.forensics", description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR",
                        help="folder with manifest.csv (columns file, label, source, mask)")  # fmt: skip
    parser.add_argument("--authentic", action="append", default=[], metavar="SOURCE=DIR",
                        help="more authentic pictures of a source; may be given again")  # fmt: skip
    parser.add_argument(
        "--out", type=Path, default=Path("build/forensics/results"), help="folder of table, JSON, plots"
    )
    parser.add_argument("--rungs", default="native,laundered", help=f"of {', '.join(RUNGS)}")
    parser.add_argument("--limit", type=int, default=0, help="take about this many pictures, spread over the manifest")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    parser.add_argument("--cache", type=Path, default=Path("build/forensics"), help="folder of cached observations")
    parser.add_argument("--docs", type=Path, help="also write DIR/forensics-results.md and its plots in DIR/img")
    parser.add_argument("--no-plots", action="store_true", help="leave the plots out (they need matplotlib)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
