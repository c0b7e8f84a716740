"""Cost of every test and of what they share, by picture size, against the least that the machine could need.

    python -m benchmarks.detectors [--sizes 1 12 48] [--rounds 3] [--json NEW.json] [--compare OLD.json]

Each size runs in a process of its own over a synthetic photograph (JPEG, quality 92), on the CPU, one stage after the
other in the order of the tools, so that the stages add up to a picture's work. What several tests share is a stage by
itself ("shared."). Times are CPU time, which other work on the machine changes least. The extra memory is the highest
resident size during a stage above that before it.

Right before a stage, a fixed Fourier transform is timed, and the stage's cost in such transforms is kept beside its
time. These costs are compared over versions and machines (`--compare`, benchmarks/detectors_reference.json): what
slows the machine down slows both. Only the sum and the larger stages are judged: small ones vary too much.

The bound is one read of the stage's input at the measured memory bandwidth, or its arithmetic at the measured rate of
float additions within the cache, whichever takes longer. Stages on a bounded number of windows, which do not read
the whole picture, have no bound per pixel.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.large_pictures import large_photo
from benchmarks.resident import malloc_trim, peak_bytes, reset_peak
from vision_service.decode import decode
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate
from vision_service.tools import TOOLS
from vision_service.tools.frequency.double_jpeg import double_jpeg
from vision_service.tools.frequency.grid_votes import grid_votes
from vision_service.tools.frequency.requantised import losses

Figures = dict[str, dict[str, float]]
"""Stage -> "ms_per_mp", "references_per_mp", "extra_mib", and "bound_ms_per_mp" where there is one."""

REFERENCE_FILE = Path(__file__).with_name("detectors_reference.json")
"""Figures of an earlier version, to compare with."""
SLOWER = 1.3
"""A stage that costs so many times the earlier version's is named as slower, where it can be judged."""
JUDGED_MS_PER_MP = 10.0
"""Single stages below it are shown and not judged: two runs of the same code differ too much."""
SMALL_STAGE_NOISE = 1.55
"""Largest ratio seen for a small stage between two runs of the same code (the smallest was 0.57)."""
NEGLIGIBLE_MS_PER_MP = 1.0
"""Stages below it are not compared: the clock's steps and the allocator make up much of them."""

_CACHED = 16384
_RGB, _GREEN, _LUMA, _COEFFICIENTS = 3.0, 1.0, 4.0, 2.0  # bytes per pixel

COSTS: dict[str, tuple[float, float]] = {
    "shared.luma": (_RGB, 5),
    "shared.jpeg": (_COEFFICIENTS, 0),
    "shared.grid_votes": (_LUMA, 380),
    "shared.losses": (_LUMA, 20 + 4 * 6 * 20 / 64),
    "shared.double_jpeg": (_COEFFICIENTS * 14 / 64, 0),
    "frequency.foreign_grid": (1, 0),
    "frequency.double_jpeg_shifted": (_LUMA, 20),
    "frequency.jpeg_ghost": (4 * 6 / 64, 0),
    "frequency.resampling": (_LUMA, 8),
    "frequency.ela": (4 / 64, 0),
    "noise.level_map": (_LUMA, 12),
    "noise.low_noise_regions": (_GREEN, 20),
    "noise.cfa": (_GREEN, 6),
    "spatial.copy_move": (_LUMA, 60),
    "spatial.blur_inconsistency": (_LUMA, 24),
    "spatial.grid_inconsistency": (_LUMA, 10),
    "watermark.dwt_dct": (_RGB, 4),
    "watermark.dwt_dct_svd": (_RGB, 4),
}
"""Bytes of input and floating-point operations, both per pixel, that a stage needs at least."""


@dataclass(frozen=True)
class Machine:
    """What one thread can do."""

    read_gb_s: float
    """Memory bandwidth of a sum over 256 MiB, 10^9 bytes per second."""
    additions_g_s: float
    """Float32 additions of arrays that stay in the cache, 10^9 per second."""

    def bound_ms_per_mp(self, stage: str) -> float | None:
        """Least time of a stage, milliseconds per megapixel."""
        if stage not in COSTS:
            return None
        read, operations = COSTS[stage]
        return max(read / self.read_gb_s, operations / self.additions_g_s)


def measure_machine() -> Machine:
    """Best of several tries."""
    large, a, b, out = torch.ones(64 * 2**20), *(torch.ones(_CACHED) for _ in range(3))
    read_s = min(_seconds(lambda: large.sum()) for _ in range(5))
    add_s = min(_seconds(lambda: [torch.add(a, b, out=out) for _ in range(1000)]) for _ in range(5))
    return Machine(large.numel() * 4 / read_s / 1e9, _CACHED * 1000 / add_s / 1e9)


def reference() -> Callable[[], Any]:
    """The operation that costs are counted in: numpy's complex64 Fourier transform of 1024 x 1024, one thread."""
    numbers = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.complex64)
    return lambda: np.fft.fft2(numbers)


def _seconds(work: Callable[[], Any]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def _stages(data: bytes) -> Iterator[tuple[str, Callable[[], Any]]]:
    """The stages of one picture in their order; each may be run once."""
    substrate = decode(data, DecodeLimits())
    fresh = replace(substrate)
    yield "shared.decode", partial(decode, data, DecodeLimits())
    yield "shared.luma", lambda: fresh.luma
    yield "shared.jpeg", lambda: fresh.jpeg
    shared: tuple[tuple[str, Callable[[Substrate], Any]], ...] = (
        ("shared.grid_votes", grid_votes),
        ("shared.losses", losses),
        ("shared.double_jpeg", double_jpeg),
    )
    for name, compute in shared:
        yield name, partial(compute, fresh)
    for tool in TOOLS:
        for test in tool.tests:
            yield test.id, partial(test.run, fresh)


def measure(data: bytes, rounds: int) -> Figures:
    """All stages in this process; the first round warms up and gives the memory."""
    torch.set_num_threads(1)
    with Image.open(io.BytesIO(data)) as image:
        megapixels = image.width * image.height / 1e6
    seconds: dict[str, list[float]] = {}
    references: dict[str, list[float]] = {}
    transform = reference()
    memory: dict[str, float] = {}
    for number in range(rounds + 1):
        for name, work in _stages(data):
            if number == 0:
                malloc_trim()
                before = reset_peak()
                work()
                memory[name] = max(0, peak_bytes() - before) / 2**20
            else:
                unit_s = _seconds(transform)
                seconds.setdefault(name, []).append(_seconds(work))
                references.setdefault(name, []).append(seconds[name][-1] / unit_s)
    machine = measure_machine()
    figures: Figures = {}
    for name, values in seconds.items():
        figures[name] = {
            "ms_per_mp": 1e3 * statistics.median(values) / megapixels,
            "references_per_mp": statistics.median(references[name]) / megapixels,
            "extra_mib": memory[name],
        }
        if (bound := machine.bound_ms_per_mp(name)) is not None:
            figures[name]["bound_ms_per_mp"] = bound
    return {"all stages": _all_stages(figures), **figures}


def _all_stages(figures: Figures) -> dict[str, float]:
    totals = {key: sum(figure[key] for figure in figures.values()) for key in ("ms_per_mp", "references_per_mp")}
    return {**totals, "extra_mib": max(figure["extra_mib"] for figure in figures.values())}


def bytes_read(stage: str) -> float | None:
    """Bytes per pixel that a stage has to read at least, where the whole picture is read."""
    return COSTS[stage][0] if stage in COSTS else None


def table(results: dict[str, Figures]) -> str:
    """Markdown: bytes that must be read, and by size time, cost in reference operations, bound, extra memory."""
    sizes = list(results)
    head = [f"{size} MP: ms/MP | references/MP | bound ms/MP | extra MiB" for size in sizes]
    lines = ["| stage | bytes/pixel | " + " | ".join(head) + " |", "|---|---:|" + "---:|" * 4 * len(sizes)]
    for stage in results[sizes[0]]:
        read = bytes_read(stage)
        cells = [f"{read:.2g}" if read else ""]
        for figures in results.values():
            figure = figures[stage]
            bound = figure.get("bound_ms_per_mp")
            cells += [f"{figure['ms_per_mp']:.1f}", f"{figure['references_per_mp']:.2f}"]
            cells += [f"{bound:.2f}" if bound else "", f"{figure['extra_mib']:.0f}"]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def comparison(old: dict[str, Figures], new: dict[str, Figures]) -> str:
    """Markdown: cost in reference operations of both, new over old, for sizes and stages that both have."""
    sizes = [size for size in new if size in old]
    if not sizes:
        return "No size is in both."
    lines = ["| stage | " + " | ".join(f"{size} MP: old references/MP | new | ratio" for size in sizes) + " |"]
    lines.append("|---|" + "---:|" * 3 * len(sizes))
    for stage in (stage for stage in new[sizes[0]] if all(stage in old[size] for size in sizes)):
        if any(old[size][stage]["ms_per_mp"] < NEGLIGIBLE_MS_PER_MP for size in sizes):
            continue
        cells = []
        for size in sizes:
            before, after = (results[size][stage]["references_per_mp"] for results in (old, new))
            ratio = after / before
            slower = _is_slower(stage, old[size][stage]["ms_per_mp"], ratio)
            cells += [f"{before:.2f}", f"{after:.2f}", f"{ratio:.2f}" + (" slower" if slower else "")]
        lines.append(f"| {stage} | " + " | ".join(cells) + " |")
    only_new = [stage for stage in new[sizes[0]] if stage not in old[sizes[0]]]
    gone = [stage for stage in old[sizes[0]] if stage not in new[sizes[0]]]
    lines += [f"\nNew: {', '.join(only_new) or 'none'}. Gone: {', '.join(gone) or 'none'}."]
    return "\n".join(lines)


def _is_slower(stage: str, old_ms_per_mp: float, ratio: float) -> bool:
    """Whether a stage's cost grew by more than runs of the same code differ; a small stage must outgrow its noise."""
    judged = stage == "all stages" or old_ms_per_mp * max(1.0, ratio / SMALL_STAGE_NOISE) >= JUDGED_MS_PER_MP
    return judged and ratio > SLOWER


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="+", default=[1, 12, 48], help="megapixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument(
        "--compare",
        type=Path,
        nargs="?",
        const=REFERENCE_FILE,
        help="figures of an earlier run (default: the kept ones)",
    )
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.one.read_bytes(), arguments.rounds)))
        return
    load = os.getloadavg()[0]
    results: dict[str, Figures] = {}
    with TemporaryDirectory() as folder:
        for size in arguments.sizes:
            picture = Path(folder) / "picture.jpg"
            Image.fromarray(large_photo(size, seed=7)).save(picture, "JPEG", quality=92, subsampling="4:2:0")
            command = [sys.executable, "-m", "benchmarks.detectors", "--one", str(picture)]
            command += ["--rounds", str(arguments.rounds)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[f"{size:g}"] = json.loads(done.stdout.splitlines()[-1])
    machine = measure_machine()
    print(f"{platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}, torch {torch.__version__},", end=" ")
    print(f"load of the machine {load:.1f} before, {os.getloadavg()[0]:.1f} after;", end=" ")
    print(f"{machine.read_gb_s:.1f} GB/s read, {machine.additions_g_s:.1f} G additions/s\n\n{table(results)}")
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.compare:
        print(f"\n{comparison(json.loads(arguments.compare.read_text()), results)}")


if __name__ == "__main__":
    main()
