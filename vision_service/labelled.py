"""Labelled folders: the manifest, and what the tests observe on every picture, kept in a cache."""

from __future__ import annotations

import ast
import csv
import hashlib
import importlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.errors import MaifsError, Reason
from vision_service.domain import HeatMap, Observation, Outcome, Test, Tool
from vision_service.laundering import COPIES, FORGERIES, RUNGS

LABELS = ("authentic", "manipulated", "ai_generated")
"""The three classes as a manifest names them."""

TOOL_SUITES = tuple(f"vision_service.tools.{name}:TOOL" for name in ("frequency", "noise", "watermark", "spatial"))
"""Where the four tools are found."""

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Item:
    """One labelled picture."""

    path: Path
    label: str
    source: str
    mask: Path | None = None


@dataclass(frozen=True)
class Record:
    """What the tests observed on one copy of one picture."""

    image: str
    """File name."""
    label: str
    """Label of this copy: "manipulated" for a forged copy of an authentic picture."""
    source: str
    rung: str
    stratum: str
    megapixels: float
    observations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By test id: outcome, score, detected, explanation_key, seconds, and pixel figures where there is a mask."""

    def observation(self, test_id: str) -> Observation:
        """The observation as calibration sees it (without maps and numbers)."""
        entry = self.observations[test_id]
        return Observation(
            Outcome(entry["outcome"]),
            reason=entry["reason"],
            score=entry["score"],
            detected=entry["detected"],
            explanation_key=entry["explanation_key"],
        )


def read_manifest(folder: Path) -> list[Item]:
    """Reads manifest.csv: columns file and label, and optionally source (default: the folder's name) and mask.

    Raises:
        MaifsError: FILE_UNREADABLE without a manifest; INVALID_REQUEST when it has a fault; NO_IMAGES when empty.
    """
    try:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE, f"{folder / 'manifest.csv'} cannot be read: {error.strerror}."
        ) from error
    items = [_item(folder, number, row) for number, row in enumerate(rows, 2)]
    if not items:
        raise MaifsError(Reason.NO_IMAGES, f"{folder / 'manifest.csv'} names no image.")
    return items


def authentic_folder(argument: str) -> list[Item]:
    """Pictures of "SOURCE=FOLDER", all authentic: every JPEG, PNG, WebP or TIFF file directly in the folder."""
    source, _, folder = argument.rpartition("=")
    path = Path(folder)
    files = sorted(p for p in path.glob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
    if not files:
        raise MaifsError(Reason.NO_IMAGES, f"{path} has no image file.")
    return [Item(file, "authentic", source or path.name) for file in files]


def _item(folder: Path, line: int, row: dict[str, str]) -> Item:
    where = f"{folder / 'manifest.csv'} line {line}"
    if not row.get("file") or row.get("label") not in LABELS:
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"{where}: file is {row.get('file')!r} and label is {row.get('label')!r}.",
            f"Every line needs a file and one of the labels {', '.join(LABELS)}.",
        )
    mask = folder / row["mask"] if row.get("mask") else None
    return Item(folder / row["file"], row["label"], row.get("source") or folder.name, mask)


def load_suite(suite: str) -> Tool:
    """The tool at "package.module:ATTRIBUTE"."""
    module, _, attribute = suite.partition(":")
    tool: Tool = getattr(importlib.import_module(module), attribute)
    return tool


def suite_key(suite: str) -> str:
    """Digest of a suite's version and of every source file that it depends on within this checkout."""
    module = suite.partition(":")[0]
    tool = load_suite(suite)
    digest = hashlib.sha256(f"{tool.name} {tool.version}".encode())
    for file in sorted(_dependencies(module)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _dependencies(module: str) -> set[Path]:
    """Source and data files of a module or package and of what it imports from this checkout."""
    found: set[Path] = set()
    pending = [module, "vision_service.decode"]
    seen: set[str] = set()
    while pending:
        name = pending.pop()
        path = _ROOT / name.replace(".", "/")
        if name in seen:
            continue
        seen.add(name)
        if path.is_dir():
            files = [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"]
        elif path.with_suffix(".py").is_file():
            files = [path.with_suffix(".py")]
        else:
            continue
        found.update(files)
        for file in files:
            if file.suffix == ".py":
                pending += _local_imports(file)
    return found


def _local_imports(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [
        name for name in names if name.startswith(("vision_service.", "benchmarks.")) and name != "vision_service.tools"
    ]


def observe_all(
    items: Sequence[Item],
    rungs: Sequence[str],
    cache: Path,
    *,
    suites: Sequence[str] = TOOL_SUITES,
    processes: int = 2,
) -> list[Record]:
    """Runs all tests on all copies of all pictures, or takes them from the cache.

    Args:
        items: the pictures.
        rungs: names from `laundering.COPIES`; those that are not in `RUNGS` for authentic pictures only.
        cache: folder of one JSON-lines file per suite and version of its code.
        suites: where the tools are found.
        processes: worker processes, each with one torch thread.

    Returns:
        Records in the order of items and rungs; a picture that cannot be decoded is left out with a line on stderr.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files = {suite: cache / f"{suite.split(':')[0].rpartition('.')[2]}-{suite_key(suite)}.jsonl" for suite in suites}
    known = {suite: _read_cache(file) for suite, file in files.items()}
    copies = [(item, rung) for rung in rungs for item in items if rung in RUNGS or item.label == "authentic"]
    digests = {item.path: hashlib.sha256(item.path.read_bytes()).hexdigest() for item in items}
    tasks = []
    for item, rung in copies:
        missing = [suite for suite in suites if f"{digests[item.path]}/{rung}" not in known[suite]]
        if missing:
            tasks.append((item, rung, f"{digests[item.path]}/{rung}", missing))
    tasks.sort(key=lambda task: -task[0].path.stat().st_size)
    for suite, key, entry in _work(tasks, processes):
        known[suite][key] = entry
        with files[suite].open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **entry}) + "\n")
    records = (
        _record(item, rung, [known[s].get(f"{digests[item.path]}/{rung}") for s in suites]) for item, rung in copies
    )
    return [record for record in records if record is not None]


def _read_cache(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    entries = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {entry.pop("key"): entry for entry in entries}


def _record(item: Item, rung: str, entries: list[dict[str, Any] | None]) -> Record | None:
    present = [entry for entry in entries if entry is not None]
    if len(present) < len(entries) or any("error" in entry for entry in present):
        return None
    observations = {test: values for entry in present for test, values in entry["observations"].items()}
    label = "manipulated" if rung in FORGERIES else item.label
    first = present[0]
    return Record(item.path.name, label, item.source, rung, first["stratum"], first["megapixels"], observations)


Task = tuple[Item, str, str, list[str]]


def _work(tasks: list[Task], processes: int) -> Iterable[tuple[str, str, dict[str, Any]]]:
    if not tasks:
        return
    start = time.monotonic()
    for done, results in enumerate(_results(tasks, processes), 1):
        yield from results
        if done % 25 == 0 or done == len(tasks):
            print(f"observed {done}/{len(tasks)} copies in {time.monotonic() - start:.0f} s", file=sys.stderr)


def _results(tasks: list[Task], processes: int) -> Iterable[list[tuple[str, str, dict[str, Any]]]]:
    if processes <= 1:
        yield from map(_observe_copy, tasks)
        return
    context = multiprocessing.get_context("spawn")  # a forked child of a process that used torch may hang
    with ProcessPoolExecutor(processes, mp_context=context, initializer=_start_worker) as pool:
        for future in as_completed([pool.submit(_observe_copy, task) for task in tasks]):
            yield future.result()


def _start_worker() -> None:
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    os.nice(5)


def _observe_copy(task: Task) -> list[tuple[str, str, dict[str, Any]]]:
    from vision_service.decode import DecodeLimits, decode

    item, rung, key, suites = task
    data = item.path.read_bytes()
    try:
        substrate = decode(COPIES[rung](data), DecodeLimits())
    except MaifsError as error:
        print(f"{item.path.name} ({rung}) left out: {error}", file=sys.stderr)
        return [(suite, key, {"error": str(error)}) for suite in suites]
    _ = substrate.luma, substrate.jpeg  # shared by all tests: no test's time should hold their making
    mask = _mask(item, substrate.height_px, substrate.width_px) if rung in RUNGS else None
    results = []
    for suite in suites:
        observations = {test.id: _observe_test(test, substrate, mask) for test in load_suite(suite).tests}
        megapixels = substrate.width_px * substrate.height_px / 1e6
        entry = {"stratum": substrate.stratum, "megapixels": megapixels, "observations": observations}
        results.append((suite, key, entry))
    return results


def _observe_test(test: Test, substrate: Any, mask: npt.NDArray[np.bool_] | None) -> dict[str, Any]:
    from vision_service.runner import observe

    observation, seconds = observe(test, substrate)
    entry: dict[str, Any] = {
        "outcome": observation.outcome.value,
        "reason": observation.reason,
        "score": float(observation.score),
        "detected": bool(observation.detected),
        "explanation_key": observation.explanation_key,
        "seconds": round(seconds, 5),
        "measurements": {m.name: float(m.value) for m in observation.measurements},
    }
    if mask is not None and observation.heat_map is not None:
        entry["pixel"] = asdict(pixel_figures(observation.heat_map, mask))
    return entry


@dataclass(frozen=True)
class PixelFigures:
    """How well a heat map finds the edited pixels."""

    auc: float
    f1_fixed: float
    """At half of the map's range."""
    f1_best: float
    """At the best threshold for this picture."""


def pixel_figures(heat_map: HeatMap, mask: npt.NDArray[np.bool_]) -> PixelFigures:
    """Figures of a map against a mask of full size, shape (H, W), at the map's resolution of cells."""
    height, width = mask.shape
    full = np.repeat(np.repeat(heat_map.values, heat_map.cell_px, 0), heat_map.cell_px, 1)[:height, :width]
    mask = mask[: full.shape[0], : full.shape[1]]
    edited = np.bincount(full[mask], minlength=256).astype(float)
    other = np.bincount(full[~mask], minlength=256).astype(float)
    if not edited.sum() or not other.sum():
        return PixelFigures(0.5, 0.0, 0.0)
    true_positive = np.cumsum(edited[::-1])[::-1]  # at thresholds 0..255
    false_positive = np.cumsum(other[::-1])[::-1]
    f1 = 2 * true_positive / (true_positive + false_positive + edited.sum())
    below = np.concatenate([[0.0], np.cumsum(other)[:-1]])
    auc = float((edited * (below + other / 2)).sum() / (edited.sum() * other.sum()))
    return PixelFigures(auc, float(f1[128]), float(f1.max()))


def _mask(item: Item, height: int, width: int) -> npt.NDArray[np.bool_] | None:
    if item.mask is None or not item.mask.is_file():
        return None
    image = Image.open(item.mask).convert("L").resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image) > 127
