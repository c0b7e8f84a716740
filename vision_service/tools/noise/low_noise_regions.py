"""noise.low_noise_regions: rectangles where the quietest blocks crowd or are missing (after Noisesniffer)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.binomial import log10_binomial_tail
from vision_service.tools.noise import acontrario
from vision_service.tools.noise.low_noise import QUIET_SHARE, QuietBlocks, quiet_blocks

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MIN_PIXELS = 300_000
_MIN_QUALITY = 85  # below, the steps of the high frequencies (30 and more) leave the quantiser's noise
_MIN_CELL_PX = 32
_GRID = 32  # cells along the longer side of a large picture: 279 thousand rectangles are scanned at most
_TOLERATED_SHARE = 2 / 3  # colours and fine texture make that share quiet, or leave the rest, in genuine pictures
_MIN_BLOCKS = 8  # candidates in a rectangle
_MIN_CANDIDATES = 0.5  # share of the bins that must not be void
_LARGEST_SHARE = 0.5  # a rectangle with more of the candidates than this is the picture, not a region of it


@dataclass(frozen=True, eq=False)
class Rectangle:
    """The rectangle that departs most from "a random half is quiet" in one direction."""

    log10_nfa: float
    box: Region
    """In cells."""
    candidates: float
    quiet_share: float
    """Share of its candidates that are quiet; 0.5 in the picture as a whole."""


def cell_counts(blocks: QuietBlocks, cell_px: int, rows: int, columns: int) -> tuple[FloatArray, FloatArray]:
    """Candidates N and quiet blocks K per cell, each of shape (rows, columns)."""
    index = blocks.row_px // cell_px * columns + blocks.column_px // cell_px
    n = np.bincount(index, minlength=rows * columns)
    k = np.bincount(index, weights=blocks.quiet, minlength=rows * columns)
    return n.reshape(rows, columns).astype(np.float64), k.reshape(rows, columns).astype(np.float64)


def scan(n: FloatArray, k: FloatArray) -> list[Rectangle]:
    """The most significant rectangle of too many and of too few quiet blocks, by rising NFA.

    NFA = 2 R * P(Bin(N / c, 2/3) >= K / c), R the number of rectangles of the grid and 2/3 the share that content alone
    may give. c is the overdispersion outside of the rectangle, of cells times their correlation area or of whole blocks
    of the rectangle's size, whichever is larger: where quiet blocks follow the content of the picture they do so
    outside as well, and the test loses its power instead of raising an alarm.
    """
    found = [_strongest(n, counts) for counts in (k, n - k)]
    quiet = [f and Rectangle(f.log10_nfa, f.box, f.candidates, 1 - f.quiet_share) for f in found[1:]]
    return sorted((f for f in (found[0], *quiet) if f is not None), key=lambda f: f.log10_nfa)


def _strongest(n: FloatArray, k: FloatArray) -> Rectangle | None:
    sums_n, sums_k, (top, bottom, left, right) = _all_rectangles(n), _all_rectangles(k), _edges(*n.shape)
    z = (sums_k - QUIET_SHARE * sums_n) / np.sqrt(np.maximum(sums_n, 1.0))
    z[(sums_n < _MIN_BLOCKS) | (sums_n > _LARGEST_SHARE * n.sum())] = -np.inf
    i, j = np.unravel_index(int(z.argmax()), z.shape)
    if not z[i, j] > 0:
        return None
    outside = n >= 3
    outside[max(0, top[i] - 1) : bottom[i] + 1, max(0, left[j] - 1) : right[j] + 1] = False
    if int(outside.sum()) < 10:
        return None
    total, quiet = float(sums_n[i, j]), float(sums_k[i, j])
    blocks = _block_deviations(n, k, outside, (int(top[i]), int(left[j])), (bottom[i] - top[i], right[j] - left[j]))
    spread = max(1.0, float((blocks**2).mean())) if blocks.size else 1.0
    dilution = max(_dilution(n, k, outside), spread)
    tail = float(log10_binomial_tail(quiet / dilution, total / dilution, _TOLERATED_SHARE))
    box = Region(int(left[j]), int(top[i]), int(right[j] - left[j]), int(bottom[i] - top[i]))
    return Rectangle(float(np.log10(2.0 * z.size)) + tail, box, total, quiet / total)


def _dilution(n: FloatArray, k: FloatArray, outside: npt.NDArray[np.bool_]) -> float:
    z = (k - QUIET_SHARE * n) / np.sqrt(QUIET_SHARE * (1 - QUIET_SHARE) * np.maximum(n, 1.0))
    return max(1.0, float((z[outside] ** 2).mean())) * acontrario.correlation_area(z, outside)


def _block_deviations(
    n: FloatArray, k: FloatArray, outside: BoolArray, corner: tuple[int, int], size: tuple[int, int]
) -> FloatArray:
    """Standardised quiet counts of the blocks outside that tile the grid in step with a rectangle, shape (blocks,)."""
    (height, width), (top, left) = size, (corner[0] % size[0], corner[1] % size[1])
    rows, columns = (n.shape[0] - top) // height, (n.shape[1] - left) // width

    def blocks(values: FloatArray) -> FloatArray:
        cut = np.where(outside, values, 0.0)[top : top + rows * height, left : left + columns * width]
        return np.asarray(cut.reshape(rows, height, columns, width).sum(axis=(1, 3)).ravel(), dtype=np.float64)

    total = blocks(n)
    enough = total >= max(_MIN_BLOCKS, 0.25 * height * width * float(n.mean()))
    expected = QUIET_SHARE * total
    return np.asarray((blocks(k) - expected)[enough] / np.sqrt(expected * (1 - QUIET_SHARE))[enough])


def _edges(rows: int, columns: int) -> tuple[npt.NDArray[np.int64], ...]:
    return (*np.triu_indices(rows + 1, 1), *np.triu_indices(columns + 1, 1))


def _all_rectangles(values: FloatArray) -> FloatArray:
    """Sums over all rectangles, shape (row intervals, column intervals), in the order of `_edges`."""
    table = np.zeros((values.shape[0] + 1, values.shape[1] + 1))
    table[1:, 1:] = values.cumsum(0).cumsum(1)
    top, bottom, left, right = _edges(*values.shape)
    rows = table[bottom] - table[top]
    return np.asarray(rows[:, right] - rows[:, left], dtype=np.float64)


def _run(substrate: Substrate) -> Observation:
    height, width = substrate.height_px, substrate.width_px
    if height * width < _MIN_PIXELS or min(height, width) < 4 * _MIN_CELL_PX:
        return not_applicable("too_small", f"{width} x {height} px hold too few blocks; {_MIN_PIXELS:,} px are needed")
    quality = substrate.jpeg.quality if substrate.jpeg is not None else 100
    if quality < _MIN_QUALITY:
        return not_applicable("too_compressed", f"JPEG quality {quality} leaves no noise; {_MIN_QUALITY} is needed")
    blocks = quiet_blocks(torch.from_numpy(substrate.rgb[:, :, 1]).to(substrate.device))
    if blocks is None or blocks.void_bins > (1 - _MIN_CANDIDATES) * blocks.bins:
        return not_applicable(
            "no_noise", "at half of the brightness levels the flattest blocks hold only rounding noise"
        )
    cell = max(_MIN_CELL_PX, -(-max(height, width) // _GRID // 8) * 8)
    n, k = cell_counts(blocks, cell, -(-height // cell), -(-width // cell))
    return _observation(substrate, blocks, n, k, cell)


def _observation(substrate: Substrate, blocks: QuietBlocks, n: FloatArray, k: FloatArray, cell: int) -> Observation:
    rectangles = scan(n, k)
    best = rectangles[0] if rectangles else None
    found = [r for r in rectangles if r.log10_nfa < acontrario.DETECTION_LOG10_NFA]
    key = (
        "not_detected"
        if not found
        else "detected_cleaner"
        if found[0].quiet_share > QUIET_SHARE
        else "detected_noisier"
    )
    size = (substrate.width_px, substrate.height_px)
    return Observation(
        Outcome.TESTED,
        score=acontrario.score_of(best.log10_nfa) if best else 0.0,
        score_meaning="-log10 of the number of false alarms of the strongest rectangle, 0..30",
        log10_nfa=best.log10_nfa if best else None,
        detected=bool(found),
        explanation_key=f"noise.low_noise_regions.{key}",
        measurements=(
            Measurement("quiet_share_of_strongest_region", best.quiet_share if best else QUIET_SHARE, "1"),
            Measurement("candidate_blocks", float(n.sum()), "count"),
            Measurement("void_bin_share", blocks.void_bins / blocks.bins, "1"),
        ),
        regions=tuple(acontrario.to_pixels(r.box, cell, *size) for r in found),
        heat_map=HeatMap(
            _heat(n, k),
            cell,
            "Bright cells hold more or fewer of the picture's quietest blocks than chance would give.",
        ),
    )


def _heat(n: FloatArray, k: FloatArray) -> npt.NDArray[np.uint8]:
    z = (k - QUIET_SHARE * n) / np.sqrt(QUIET_SHARE * (1 - QUIET_SHARE) * np.maximum(n, 1.0))
    return np.asarray(np.clip(np.abs(z) * 40, 0, 255), dtype=np.uint8)


LOW_NOISE_REGIONS = Test(
    id="noise.low_noise_regions",
    description="Rectangles with too many or too few of the quietest blocks at equal brightness",
    source="after Gardella, Muse, Colom, Morel: Noisesniffer, Image Processing On Line 2024",
    run=_run,
)
