"""Whitened band-pass residual of a picture ("grain") and its correlation cell by cell."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

CELL_PX = 8
"""Side of a cell of all maps of this tool, pixels."""
POOL = 3
"""Correlations are pooled over POOL x POOL cells."""
SMOOTHING_PX = 0.8
"""Standard deviation of the blur that removes the highest frequencies, which JPEG does not keep. (Of seven bands
tried on pastes in JPEG files of quality 75..95 this one tells copies from look-alikes best.)"""
CLIP = 2.0
FLOOR = 0.25
"""Grey levels added to the local deviation: rounding noise alone is not blown up."""
FLAT = 0.5
"""Root mean square residual in grey levels below which a cell holds no grain to compare."""


_STRIP_PX = 64
"""Rows worked on at once, a multiple of CELL_PX."""
_REACH_PX = 8
"""Rows beyond a strip that its grain depends on: 3 of the blur and 4 of the local deviation."""


def grain(luma: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Band-pass residual divided by its local deviation and clipped, so that no edge outweighs the grain.

    Args:
        luma: float32, shape (H, W), 0..255.

    Returns:
        The whitened residual, within +-CLIP, and the local deviation in grey levels; both float32, shape (H, W).
    """
    residual = cv2.GaussianBlur(luma, (0, 0), SMOOTHING_PX) - cv2.blur(luma, (5, 5))
    deviation = np.sqrt(np.maximum(cv2.blur(residual * residual, (9, 9)), 0.0))
    return np.clip(residual / (deviation + FLOOR), -CLIP, CLIP), deviation


def whole_grain(luma: FloatArray) -> FloatArray:
    """The whitened residual of a whole picture as `grain` gives it, in strips to spare memory; shape (H, W)."""
    whole = np.empty(luma.shape, dtype=np.float32)
    for top in range(0, luma.shape[0], _STRIP_PX):
        first = max(top - _REACH_PX, 0)
        part, _ = grain(luma[first : top + _STRIP_PX + _REACH_PX])
        whole[top : top + _STRIP_PX] = part[top - first : top - first + _STRIP_PX]
    return whole


def cell_sums(values: FloatArray) -> FloatArray:
    """Sums over whole cells, shape (H // CELL_PX, W // CELL_PX)."""
    height, width = values.shape[0] // CELL_PX, values.shape[1] // CELL_PX
    cut = values[: height * CELL_PX, : width * CELL_PX]
    mean = cv2.resize(cut, (width, height), interpolation=cv2.INTER_AREA)
    return np.asarray(mean * CELL_PX**2, dtype=np.float32)


def cell_correlation(first: FloatArray, second: FloatArray) -> FloatArray:
    """Correlation coefficient of two grains around every cell, -1..1; 0 where either holds nothing.

    Args:
        first: whitened residual, shape (H, W), both sides at least CELL_PX.
        second: likewise.
    """
    a, b, c = (_pool(_product_sums(x, y)) for x, y in ((first, first), (second, second), (first, second)))
    norm = np.sqrt(np.maximum(a * b, 0.0))
    least = 0.02 * (CELL_PX * POOL) ** 2
    return np.where(norm > least, c / np.maximum(norm, least), 0.0).astype(np.float32)


def _product_sums(first: FloatArray, second: FloatArray) -> FloatArray:
    """`cell_sums` of the product, in strips that stay in the cache."""
    height = first.shape[0] // CELL_PX * CELL_PX
    tops = range(0, height, _STRIP_PX)
    return np.concatenate([cell_sums(first[t : t + _STRIP_PX] * second[t : t + _STRIP_PX]) for t in tops])


def _pool(values: FloatArray) -> FloatArray:
    return np.asarray(cv2.boxFilter(values, -1, (POOL, POOL), normalize=False, borderType=cv2.BORDER_CONSTANT))


def flat_cells(deviation: FloatArray) -> npt.NDArray[np.bool_]:
    """Cells whose residual is too weak to be compared."""
    return np.asarray(cell_sums(deviation) < FLAT * CELL_PX**2)


def plateau_share(luma: FloatArray) -> float:
    """Share of the picture's pixels that `plateaus` marks, 0..1."""
    tops = range(0, luma.shape[0], _STRIP_PX)
    counts = [np.count_nonzero(plateaus(luma[top : top + _STRIP_PX + 1])) for top in tops]
    return sum(counts) / luma.size


def plateaus(luma: FloatArray) -> npt.NDArray[np.bool_]:
    """Pixels equal to their right and lower neighbours: most of a drawing or screenshot, little of a photograph.

    Args:
        luma: float32, shape (H, W), integers 0..255.

    Returns:
        Shape (H, W); False in the last row and column.
    """
    equal = np.zeros(luma.shape, dtype=bool)
    here = luma[:-1, :-1]
    equal[:-1, :-1] = (here == luma[1:, :-1]) & (here == luma[:-1, 1:])
    return equal
