"""Cross-correlation of a region with its likeness over small lags: the right alignment against every wrong one."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

LAG_PX = 32
"""Rival alignments are sought up to this lag."""
TILE_PX = 448
"""Side of the tiles that a larger region is taken in; with the lags on both sides their transforms have 512 px."""


def rival_alignments(first: FloatArray, second: FloatArray) -> tuple[float, float]:
    """Correlation at the right alignment and the highest at a wrong one.

    Lags within 2 px belong to the right alignment. Sums over tiles are linear in the spectra, so that memory does not
    grow with the region and two inverse transforms do for all of it.

    Args:
        first: grain of the region, shape (H, W), 0 outside of it.
        second: grain of the likeness at the right alignment, shape (H, W).
    """
    lag = LAG_PX
    rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
    if len(rows) == 0:
        return 0.0, 0.0
    patch = first[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    padded = np.pad(second, lag)[rows[0] : rows[-1] + 1 + 2 * lag, columns[0] : columns[-1] + 1 + 2 * lag]
    cross, energy = _lagged_sums(patch, padded)
    own = max(float(energy[lag, lag]), 1e-3)
    norm = np.sqrt(np.maximum(energy, 0.25 * own) * float((patch**2).sum()))
    correlation = cross / np.maximum(norm, 1e-6)
    whole = float(correlation[lag, lag])
    correlation[lag - 2 : lag + 3, lag - 2 : lag + 3] = -1.0
    return whole, float(correlation.max())


def _lagged_sums(patch: FloatArray, padded: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Sums over the patch of patch * likeness and, where the patch is not 0, of likeness^2, at each lag.

    Args:
        patch: shape (h, w).
        padded: the likeness with `LAG_PX` more on every side, shape (h + 2 LAG_PX, w + 2 LAG_PX).

    Returns:
        Two arrays of shape (2 LAG_PX + 1, 2 LAG_PX + 1), rows and columns from -LAG_PX to LAG_PX.
    """
    height, width = (cv2.getOptimalDFTSize(min(side, TILE_PX) + 2 * LAG_PX) for side in patch.shape)
    shape = (height, width)
    spectra = np.zeros((2, height, width // 2 + 1), dtype=np.complex64)
    for part, around in _tiles(patch, padded):
        support = (part != 0).astype(np.float32)
        spectra[0] += np.fft.rfft2(around, shape) * np.conj(np.fft.rfft2(part, shape))
        spectra[1] += np.fft.rfft2(around**2, shape) * np.conj(np.fft.rfft2(support, shape))
    sums = np.fft.irfft2(spectra, shape)[:, : 2 * LAG_PX + 1, : 2 * LAG_PX + 1].astype(np.float32, copy=False)
    return sums[0], sums[1]


def _tiles(patch: FloatArray, padded: FloatArray) -> Iterator[tuple[FloatArray, FloatArray]]:
    """Tiles of the patch that are not all 0, each with its surroundings."""
    reach = TILE_PX + 2 * LAG_PX
    for top in range(0, patch.shape[0], TILE_PX):
        for left in range(0, patch.shape[1], TILE_PX):
            part = patch[top : top + TILE_PX, left : left + TILE_PX]
            if part.any():
                yield part, padded[top : top + reach, left : left + reach]
