"""A-contrario counting (Desolneux, Moisan, Morel 2000): regions of cells and their false alarms."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import signal

from vision_service.domain import MAX_REGIONS, Region
from vision_service.tools.binomial import log10_binomial_tail

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]

SCORE_LIMIT = 30.0
"""Scores are min(-log10 NFA, 30): beyond it the model is less certain than the number."""

DETECTION_LOG10_NFA = -6.0
"""A region counts as detected below this log10 NFA. The model promises one false alarm in a million pictures there;
its independence holds only nearly: the strongest of some 200 genuine photos reached -5 after recompression."""


@dataclass(frozen=True, eq=False)
class CellRegion:
    """A connected group of cells."""

    log10_nfa: float
    cells: BoolArray
    """Member cells, shape of the cell grid."""
    box: Region
    """Bounding rectangle in cells (not pixels)."""
    size: int
    """Number of member cells."""


def connected_groups(marked: BoolArray) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """8-connected groups of marked cells.

    Returns:
        Labels (0 = not marked), shape of `marked`; and statistics of label 1.. as rows x, y, width, height, size.
    """
    _, labels, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    return np.asarray(labels, dtype=np.int32), np.asarray(stats[1:], dtype=np.int32)


def strongest_groups(
    marked: BoolArray,
    counted: BoolArray,
    probability: float,
    *,
    log10_tests: float,
    cells_per_sample: float = 1.0,
    min_cells: int = 2,
) -> list[CellRegion]:
    """The NFA of each connected group: NFA = N_tests * P(Bin(n / c, p) >= k / c).

    n counts the usable cells of the group's bounding box and k the marked ones among them, so a scattered group
    is diluted by what lies between; c, the number of cells per independent sample, allows for spatial correlation.

    Args:
        marked: cells that deviate, shape (rows, columns).
        counted: usable cells, same shape; marked cells outside are ignored.
        probability: chance of a mark under the null hypothesis.
        log10_tests: log10 of the number of regions that could have been tested.
        cells_per_sample: c >= 1.
        min_cells: smaller groups are not tested.

    Returns:
        Groups by rising NFA, at most `MAX_REGIONS`.
    """
    marked = marked & counted
    labels, stats = connected_groups(marked)
    if len(stats) == 0:
        return []
    keep = np.flatnonzero(stats[:, 4] >= min_cells)
    x, y, width, height, size = stats[keep].astype(np.int64).T
    n, k = _box_sums(counted, x, y, width, height), _box_sums(marked, x, y, width, height)
    nfa = log10_tests + log10_binomial_tail(k / cells_per_sample, n / cells_per_sample, probability)
    order = np.argsort(nfa, kind="stable")[:MAX_REGIONS]
    return [
        CellRegion(
            float(nfa[i]),
            labels == keep[i] + 1,
            Region(int(x[i]), int(y[i]), int(width[i]), int(height[i])),
            int(size[i]),
        )
        for i in order
    ]


def _box_sums(
    mask: BoolArray,
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    width: npt.NDArray[np.int64],
    height: npt.NDArray[np.int64],
) -> FloatArray:
    table = cv2.integral(mask.astype(np.uint8))
    sums = table[y + height, x + width] - table[y, x + width] - table[y + height, x] + table[y, x]
    return np.asarray(sums, dtype=np.float64)


def correlation_area(values: FloatArray, usable: BoolArray, reach: int = 6) -> float:
    """Cells per independent sample: the positive part of the autocorrelation summed over lags up to `reach` cells.

    Correlations below two standard errors count as none, or the sum over many lags would grow from noise alone.

    Args:
        values: field of zero median, shape (rows, columns); clipped to +-3 so that outliers do not hide the rest.
        usable: cells with a value.
        reach: largest lag in cells, each axis.

    Returns:
        At least 1.
    """
    field = np.where(usable, np.clip(values, -3.0, 3.0), 0.0)
    counts = usable.astype(np.float64)
    products = signal.fftconvolve(field, field[::-1, ::-1], mode="full")
    pairs = signal.fftconvolve(counts, counts[::-1, ::-1], mode="full")
    row, column = field.shape[0] - 1, field.shape[1] - 1
    lags_y, lags_x = min(reach, row), min(reach, column)
    window = (slice(row - lags_y, row + lags_y + 1), slice(column - lags_x, column + lags_x + 1))
    covariance = np.where(pairs[window] > 10, products[window] / np.maximum(pairs[window], 1.0), 0.0)
    variance = float(covariance[lags_y, lags_x])
    if variance <= 1e-12:
        return 1.0
    correlation = np.clip(covariance / variance, 0.0, 1.0)
    correlation[correlation < 2.0 / np.sqrt(np.maximum(pairs[window], 1.0))] = 0.0
    return max(1.0, float(correlation.sum()))


def log10_region_count(rows: int, columns: int) -> float:
    """log10 of the number of axis-parallel rectangles in a grid, the number of tests of the region searches."""
    rectangles = rows * (rows + 1) / 2 * (columns * (columns + 1) / 2)
    return float(np.log10(max(rectangles, 1.0)))


def to_pixels(box: Region, cell_px: int, width_px: int, height_px: int) -> Region:
    """A rectangle of cells as a rectangle of pixels, cut at the border of the picture."""
    x, y = box.x_px * cell_px, box.y_px * cell_px
    return Region(x, y, min(box.width_px * cell_px, width_px - x), min(box.height_px * cell_px, height_px - y))


def score_of(log10_nfa: float) -> float:
    """-log10 NFA within 0..SCORE_LIMIT."""
    return min(max(0.0, -log10_nfa), SCORE_LIMIT)
