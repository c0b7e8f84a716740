"""Synthetic photographs of any size, made of patches so that making them takes little memory."""

from __future__ import annotations

import numpy as np

from benchmarks.camera import ByteArray, photo

_PATCH_PX = 2048


def large_photo(megapixels: float, seed: int) -> ByteArray:
    """A camera-like picture of 4:3 with even sides, shape (H, W, 3); patches of 2048 px show scenes of their own."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5 / 2) * 2
    width = round(megapixels * 1e6 / height / 2) * 2
    picture = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, _PATCH_PX):
        for left in range(0, width, _PATCH_PX):
            place = picture[top : top + _PATCH_PX, left : left + _PATCH_PX]
            place[:] = photo(place.shape[0], place.shape[1], seed=seed + 1000 * top + left)
    return picture
