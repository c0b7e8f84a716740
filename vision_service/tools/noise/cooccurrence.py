"""Co-occurrences of the quantised third-order residual (Cozzolino, Poggi, Verdoliva: Splicebuster, WIFS 2015)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]

BINS = 25
"""Patterns of four ternary values that differ by more than reversal and change of sign."""
BAND_PX = 16
"""Rows of a cell that are counted."""
_STEP = 2.0  # quantisation step q in grey levels; values are clipped to -1, 0, 1
_STRIP_CELLS = 32


@lru_cache(maxsize=1)
def merged_bins() -> npt.NDArray[np.uint8]:
    """Bin 0..24 of each of the 81 patterns; code = sum of v_i 3^i with v in 0, 1, 2 (1 is a zero residual)."""
    patterns = np.stack(np.meshgrid(*[[-1, 0, 1]] * 4, indexing="ij"), axis=-1).reshape(-1, 4)[:, ::-1]
    forms = np.stack([patterns, -patterns, patterns[:, ::-1], -patterns[:, ::-1]], axis=1) + 1
    codes = (forms * np.array([1, 3, 9, 27])).sum(axis=2).min(axis=1)
    return np.unique(codes, return_inverse=True)[1].astype(np.uint8)


def cell_histograms(luma: torch.Tensor, cell_px: int) -> FloatArray:
    """Counts of patterns per cell, along and across the direction of the residual.

    Residuals of rows and of columns are pooled. Only the upper 16 rows of a cell and every second column of patterns
    are counted, which bounds the cost and takes little away: neighbouring patterns share three of four values.

    Args:
        luma: float32, shape (H, W), 0..255; both sides at least one cell.
        cell_px: side of a cell, a multiple of 16.

    Returns:
        Shape (H // cell_px, W // cell_px, 2, 25): [along, across].
    """
    rows, columns = (side // cell_px for side in luma.shape)
    cells = luma[: rows * cell_px, : columns * cell_px].reshape(rows, cell_px, columns * cell_px)[:, :BAND_PX]
    strips = [_strip(cells[top : top + _STRIP_CELLS], cell_px) for top in range(0, rows, _STRIP_CELLS)]
    return np.concatenate(strips)


def _strip(bands: torch.Tensor, cell_px: int) -> FloatArray:
    """Histograms of bands of shape (cell rows, 16, W)."""
    counts = np.zeros((bands.shape[0], bands.shape[2] // cell_px, 2, BINS))
    for residual_axis, other_axis in ((2, 1), (1, 2)):
        values = _quantised_residual(bands, residual_axis)
        for kind, axis in enumerate((residual_axis, other_axis)):
            _count(_patterns(values, axis), cell_px, counts[:, :, kind])
    return counts


def _quantised_residual(bands: torch.Tensor, axis: int) -> torch.Tensor:
    """round((1, -3, 3, -1) * x / q) clipped to -1..1, plus 1; int8."""
    a, b, c, d = (bands.narrow(axis, start, bands.shape[axis] - 3) for start in range(4))
    return ((d - a + 3 * (b - c)) / _STEP).round_().clamp_(-1, 1).to(torch.int8) + 1


def _patterns(values: torch.Tensor, axis: int) -> torch.Tensor:
    a, b, c, d = (values.narrow(axis, start, values.shape[axis] - 3) for start in range(4))
    return a + 3 * b + 9 * c + 27 * d


def _count(codes: torch.Tensor, cell_px: int, counts: FloatArray) -> None:
    sampled = codes[:, :, ::2].cpu().numpy()
    rows, columns = counts.shape[:2]
    cell_column = np.arange(sampled.shape[2], dtype=np.int32) * 2 // cell_px
    cell = np.arange(rows, dtype=np.int32)[:, None, None] * columns + cell_column
    found = np.bincount((cell * BINS + merged_bins()[sampled]).ravel(), minlength=rows * columns * BINS)
    counts += found.reshape(rows, columns, BINS)
