"""Runs all tests on all copies of labelled pictures, in several processes, and keeps what they saw in a cache."""

from __future__ import annotations

import ast
import hashlib
import importlib
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.errors import MaifsError
from vision_service.decode import decode
from vision_service.domain import Test, Tool, not_applicable
from vision_service.labelled import Item, Record, pixel_figures, read_mask
from vision_service.laundering import COPIES, FORGERIES, RUNGS
from vision_service.limits import DecodeLimits
from vision_service.runner import observe
from vision_service.substrate import Substrate
from vision_service.traces import TRAINED_ON

TOOL_SUITES = tuple(f"vision_service.tools.{name}:TOOL" for name in ("frequency", "noise", "watermark", "spatial"))
"""Where the four tools are found."""

_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class _Task:
    item: Item
    rung: str
    key: str
    missing: tuple[tuple[str, str], ...]
    """(suite, test id) of what the cache lacks."""


_Result = tuple[str, str, dict[str, Any]]
"""Test id, key of the copy, entry."""


def load_suite(suite: str) -> Tool:
    """The tool at "package.module:ATTRIBUTE"."""
    module, _, attribute = suite.partition(":")
    tool: Tool = getattr(importlib.import_module(module), attribute)
    return tool


def test_key(test: Test, version: str) -> str:
    """Digest of a test's version and of every file of this checkout on which its module depends."""
    function = getattr(test.run, "func", test.run)  # functools.partial
    digest = hashlib.sha256(f"{test.id} {version}".encode())
    for file in sorted(_dependencies(function.__module__)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


test_key.__test__ = False  # type: ignore[attr-defined] # not a pytest function


def _dependencies(module: str) -> set[Path]:
    """Source files of a module and of what it imports from this checkout, and the data files beside them."""
    found: set[Path] = set()
    pending, seen = [module, "vision_service.decode"], set()
    while pending:
        name = pending.pop()
        file = (_ROOT / name.replace(".", "/")).with_suffix(".py")
        if name in seen or not file.is_file():
            continue
        seen.add(name)
        found.add(file)
        if "tools" in file.parts:
            found.update(p for p in file.parent.iterdir() if p.is_file() and p.suffix not in {".py", ".pyc", ".md"})
        pending += _local_imports(file)
    return found


def _local_imports(file: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    return [name for name in names if name.startswith(("vision_service.", "benchmarks."))]


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
        cache: folder of one JSON-lines file per test and version of its code.
        suites: where the tools are found.
        processes: worker processes, each with one torch thread.

    Returns:
        Records in the order of items and rungs; a picture that cannot be decoded is left out with a line on stderr.
    """
    cache.mkdir(parents=True, exist_ok=True)
    tests = [(suite, test, load_suite(suite).version) for suite in suites for test in load_suite(suite).tests]
    files = {test.id: cache / f"{test.id}-{test_key(test, version)}.jsonl" for _, test, version in tests}
    known = {test_id: _read_cache(file) for test_id, file in files.items()}
    digests = {item.path: hashlib.sha256(item.path.read_bytes()).hexdigest() for item in items}
    copies = [
        (item, rung, f"{digests[item.path]}/{rung}")
        for rung in rungs
        for item in items
        if rung in RUNGS or item.label == "authentic"
    ]
    tasks = []
    for item, rung, key in copies:
        missing = tuple((suite, test.id) for suite, test, _ in tests if key not in known[test.id])
        if missing:
            tasks.append(_Task(item, rung, key, missing))
    tasks.sort(key=lambda task: -task.item.path.stat().st_size)  # the longest first: no straggler at the end
    for test_id, key, entry in _work(tasks, processes):
        known[test_id][key] = entry
        with files[test_id].open("a", encoding="utf-8") as file:
            file.write(json.dumps({"key": key, **entry}) + "\n")
    records = (_record(item, rung, {t: known[t].get(key) for t in files}) for item, rung, key in copies)
    return [record for record in records if record is not None]


def _read_cache(file: Path) -> dict[str, dict[str, Any]]:
    if not file.exists():
        return {}
    entries = (json.loads(line) for line in file.read_text(encoding="utf-8").splitlines())
    return {entry.pop("key"): entry for entry in entries}


def _record(item: Item, rung: str, entries: dict[str, dict[str, Any] | None]) -> Record | None:
    present = {test_id: entry for test_id, entry in entries.items() if entry is not None and "error" not in entry}
    if len(present) < len(entries) or not present:
        return None
    label = "manipulated" if rung in FORGERIES else item.label
    first = next(iter(present.values()))
    present = {test_id: _unseen(test_id, entry, item.source) for test_id, entry in present.items()}
    return Record(item.path.name, label, item.source, rung, first["stratum"], first["megapixels"], present)


def _unseen(test_id: str, entry: dict[str, Any], source: str) -> dict[str, Any]:
    """The entry, or for a source on which the test was trained one that says nothing."""
    if source not in TRAINED_ON.get(test_id, frozenset()):
        return entry
    silent = not_applicable("trained_on", "the weights of the test were made from pictures of this source")
    return {
        **entry,
        "outcome": silent.outcome.value,
        "reason": silent.reason,
        "score": silent.score,
        "detected": silent.detected,
        "explanation_key": silent.explanation_key,
    }


def _work(tasks: list[_Task], processes: int) -> Iterable[_Result]:
    start = time.monotonic()
    for done, results in enumerate(_results(tasks, processes), 1):
        yield from results
        if done % 25 == 0 or done == len(tasks):
            print(f"observed {done}/{len(tasks)} copies in {time.monotonic() - start:.0f} s", file=sys.stderr)


def _results(tasks: list[_Task], processes: int) -> Iterable[list[_Result]]:
    if processes <= 1 or len(tasks) <= 1:
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


def _observe_copy(task: _Task) -> list[_Result]:
    item = task.item
    try:
        substrate = decode(COPIES[task.rung](item.path.read_bytes()), DecodeLimits())
    except MaifsError as error:
        print(f"{item.path.name} ({task.rung}) left out: {error}", file=sys.stderr)
        return [(test_id, task.key, {"error": str(error)}) for _, test_id in task.missing]
    _ = substrate.luma, substrate.jpeg  # shared by all tests: no test's time should hold their making
    mask = read_mask(item, substrate.height_px, substrate.width_px) if task.rung in RUNGS else None
    tests = {(suite, test.id): test for suite in {s for s, _ in task.missing} for test in load_suite(suite).tests}
    return [
        (test_id, task.key, _observe_test(tests[suite, test_id], substrate, mask)) for suite, test_id in task.missing
    ]


def _observe_test(test: Test, substrate: Substrate, mask: npt.NDArray[np.bool_] | None) -> dict[str, Any]:
    observation, seconds = observe(test, substrate)
    entry: dict[str, Any] = {
        "stratum": substrate.stratum,
        "megapixels": substrate.width_px * substrate.height_px / 1e6,
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
