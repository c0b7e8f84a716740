"""How well the DC of blocks of each grid lies on multiples of a step, in windows (after Bianchi & Piva, TIFS 2012)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import log_ndtr, ndtri

from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.double_jpeg_shifted import block_sums
from vision_service.tools.frequency.grid_votes import GRIDS

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CELL_BLOCKS = 4
CELL_PX = CELL_BLOCKS * BLOCK
"""Side of the cells in which blocks are summed up."""
WINDOWS = (2, 3, 4, 6, 8)
"""Sides of the windows in cells."""
STEPS = (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 20)
"""First quantisation steps of the DC that are looked for, grey levels: libjpeg qualities 40 to 90 and Photoshop's."""
SLANTED = np.array([g for g in range(GRIDS) if g % BLOCK and g // BLOCK])
"""Grids shifted along both axes. Blocks shifted along one are made of two whole halves of the picture's own blocks
and repeat the periods of these."""

_FLAT = 2 * BLOCK
"""A block whose sum is that near to its left neighbour's tells nothing about a step."""
_LEAST_BLOCKS = 24
_CHI_SQUARE_MEDIAN = 0.4549
_LN10 = float(np.log(10.0))


@dataclass(frozen=True, eq=False)
class CellSums:
    """Sums over the blocks of each cell."""

    steps: tuple[int, ...]
    """Grey levels."""
    counts: FloatArray
    """Blocks that tell something, shape (64 grids, cell rows, cell columns)."""
    cosines: FloatArray
    """Sum of cos(2 pi DC / step), shape (steps, 64, cell rows, cell columns)."""


@dataclass(frozen=True)
class Window:
    """A window on one grid at one step."""

    step_index: int
    grid: int
    row: int
    """First row of cells."""
    column: int
    size: int
    """Side in cells."""
    log10_nfa: float


def cell_sums(luma: torch.Tensor, steps: tuple[int, ...]) -> CellSums:
    """Sums of blocks by grid and cell; float32 arithmetic, linear in pixels.

    Args:
        luma: float32, shape (H, W), at least one cell and 7 px on either side.
        steps: see `STEPS`.
    """
    sums = block_sums(luma)
    rows, columns = (side // CELL_PX for side in sums.shape)
    told = torch.zeros(sums.shape, dtype=torch.float32, device=sums.device)
    told[:, BLOCK:] = ((sums[:, BLOCK:] - sums[:, :-BLOCK]).abs() > _FLAT).to(torch.float32)
    told = told[: rows * CELL_PX, : columns * CELL_PX]
    dc = sums[: rows * CELL_PX, : columns * CELL_PX].to(torch.float32).div_(BLOCK).sub_(128.0 * BLOCK)

    def per_cell(values: torch.Tensor) -> FloatArray:
        parts = values.reshape(rows, CELL_BLOCKS, BLOCK, columns, CELL_BLOCKS, BLOCK).sum(dim=(1, 4))
        by_grid = parts.permute(1, 3, 0, 2).reshape(GRIDS, rows, columns)
        return np.asarray(by_grid.cpu().numpy(), dtype=np.float64)

    cosines = np.empty((len(steps), GRIDS, rows, columns))
    for index, step in enumerate(steps):
        cosines[index] = per_cell(torch.cos(dc * (2 * np.pi / step)).mul_(told))
    return CellSums(steps, per_cell(told), cosines)


def window_sums(values: FloatArray, size: int) -> FloatArray:
    """Sums over all windows of size x size cells, shape (..., rows - size + 1, columns - size + 1)."""
    table = np.zeros((*values.shape[:-2], values.shape[-2] + 1, values.shape[-1] + 1))
    table[..., 1:, 1:] = values.cumsum(axis=-2).cumsum(axis=-1)
    return np.asarray(
        table[..., size:, size:]
        - table[..., :-size, size:]
        - table[..., size:, :-size]
        + table[..., :-size, :-size]
    )  # fmt: skip


def log10_p(cosines: FloatArray, counts: FloatArray) -> FloatArray:
    """log10 of the p-value of each grid, shapes (..., 64, ...) with the grids on axis -3.

    Under H0 the phases of the DC are uniform, and sum(cos) / sqrt(N / 2) is about standard normal. Content that gives
    phases a preference gives it to blocks of all grids: the squares are divided by the background, their median over
    the grids in units of the median of chi-square, at least 1. What the own grid has at a step is taken off, for an
    earlier aligned compression shows dimly on others.
    """
    z = cosines / np.sqrt(np.maximum(counts, 1.0) / 2)
    squares = np.take(z, SLANTED, axis=-3) ** 2
    background = np.maximum(np.median(squares, axis=-3, keepdims=True) / _CHI_SQUARE_MEDIAN, 1.0)
    p = log_ndtr(-z / np.sqrt(background)) / _LN10
    own = np.minimum(p[..., :1, :, :], 0.0)
    return np.asarray(np.minimum(p - own, 0.0))


def log10_tests(sums: CellSums) -> float:
    """log10 of the number of tests: windows of all sizes x 49 grids x steps."""
    rows, columns = sums.counts.shape[1:]
    places = sum((rows - size + 1) * (columns - size + 1) for size in WINDOWS if size <= min(rows, columns))
    return float(np.log10(max(places * len(SLANTED) * len(sums.steps), 1)))


def windows(sums: CellSums, limit: float) -> list[Window]:
    """Windows with a log10 NFA (tests x p) below `limit`, strongest first."""
    tests = log10_tests(sums)
    least = float(-ndtri(10.0 ** (limit - tests)))  # no background makes a smaller z significant
    found: list[Window] = []
    for size in (size for size in WINDOWS if size <= min(sums.counts.shape[1:])):
        counts = window_sums(sums.counts, size)
        scale = np.where(counts >= _LEAST_BLOCKS, np.sqrt(np.maximum(counts, 1.0) / 2), np.inf)[SLANTED]
        for index in range(len(sums.steps)):
            cosines = window_sums(sums.cosines[index], size)
            hot = cosines[SLANTED] / scale > least
            rows, columns = np.nonzero(hot.any(axis=0))
            if not len(rows):
                continue
            p = log10_p(cosines[:, rows, columns][:, :, None], counts[:, rows, columns][:, :, None])[SLANTED, :, 0]
            nfa = np.where(hot[:, rows, columns], p + tests, 0.0)
            for g, place in np.argwhere(nfa < limit):
                value = float(nfa[g, place])
                found.append(Window(index, int(SLANTED[g]), int(rows[place]), int(columns[place]), size, value))
    return sorted(found, key=lambda window: window.log10_nfa)
