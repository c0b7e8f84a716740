"""Authentic tiles of photographs at the sharpness of pictures in circulation, from which pairs are made."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

TILE_PX = 448
"""Side of a tile; a multiple of the autoencoders' strides."""

_FILTERS = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_LINEAR)


def base_tiles(rgb: ByteArray, count: int, rng: np.random.Generator) -> list[ByteArray]:
    """Tiles of shape (TILE_PX, TILE_PX, 3) of a photograph that was first scaled down at random.

    The scale puts the short side between one tile and the photograph's own: what is left of the camera's JPEG grid
    and of its interpolation is mostly gone, as it is in generated pictures, so neither can tell a tile from its
    reconstruction. One tile in eight keeps the full scale.

    Args:
        rgb: shape (H, W, 3); shorter sides below TILE_PX give no tile.
        count: tiles wanted.
        rng: decides scale, filter, place and orientation.
    """
    short = min(rgb.shape[:2])
    if short < TILE_PX:
        return []
    tiles = []
    for _ in range(count):
        least = TILE_PX / short
        scale = 1.0 if rng.random() < 0.125 else float(np.exp(rng.uniform(np.log(least), np.log(max(0.7, least)))))
        size = (max(TILE_PX, round(rgb.shape[1] * scale)), max(TILE_PX, round(rgb.shape[0] * scale)))
        scaled = (
            rgb if scale == 1.0 else cv2.resize(rgb, size, interpolation=_FILTERS[int(rng.integers(len(_FILTERS)))])
        )
        top, left = (int(rng.integers(0, side - TILE_PX + 1)) for side in scaled.shape[:2])
        tiles.append(_turned(scaled[top : top + TILE_PX, left : left + TILE_PX], rng))
    return tiles


def _turned(tile: npt.NDArray[Any], rng: np.random.Generator) -> ByteArray:
    return np.ascontiguousarray(np.rot90(tile, int(rng.integers(4)))[:: int(rng.choice([-1, 1]))])
