"""A bounded number of small windows of a picture, so that a network's cost does not grow with the picture."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

_SATURATED_SHARE = 0.1
_FLAT_GREY_LEVELS = 0.5
"""Mean absolute Laplacian below which a window has nothing to read: sky after compression, a drawn background."""
_LEAST_RANK, _GREATEST_RANK = 0.3, 1.0
"""Part of the windows, ranked by texture, from which are chosen."""


def textured_crops(rgb: ByteArray, side_px: int, count: int) -> list[tuple[int, int]]:
    """Places (top, left) of windows that do not overlap, are neither flat nor clipped, spread over ranks of texture.

    Args:
        rgb: shape (H, W, 3).
        side_px: side of a window.
        count: most windows.

    Returns:
        Places in raster order; fewer than `count`, perhaps none, where the picture has no more.
    """
    rows, columns = rgb.shape[0] // side_px, rgb.shape[1] // side_px
    if not rows or not columns:
        return []
    top, left = (rgb.shape[0] - rows * side_px) // 2, (rgb.shape[1] - columns * side_px) // 2
    inner = rgb[top : top + rows * side_px, left : left + columns * side_px]
    step = max(1, int(np.sqrt(rows * columns / (8 * count))))  # of a large picture only every step-th window is ranked
    places = [(r, c) for r in range(0, rows, step) for c in range(0, columns, step)]
    textures = [_texture(inner[r * side_px : (r + 1) * side_px, c * side_px : (c + 1) * side_px]) for r, c in places]
    ranked = [i for i in np.argsort(textures, kind="stable") if textures[i] > _FLAT_GREY_LEVELS]
    if not ranked:
        return []
    chosen = ranked
    if len(ranked) > count:
        spread = np.linspace(_LEAST_RANK * (len(ranked) - 1), _GREATEST_RANK * (len(ranked) - 1), count)
        chosen = [ranked[i] for i in sorted(set(np.rint(spread).astype(int).tolist()))]
    return sorted((top + places[i][0] * side_px, left + places[i][1] * side_px) for i in chosen)


def _texture(window: ByteArray) -> float:
    """Mean absolute Laplacian of green, grey levels; 0 for a window with many clipped pixels."""
    green = np.ascontiguousarray(window[..., 1])
    if float(((green <= 2) | (green >= 253)).mean()) > _SATURATED_SHARE:
        return 0.0
    return float(np.abs(cv2.Laplacian(green, cv2.CV_32F)).mean())
