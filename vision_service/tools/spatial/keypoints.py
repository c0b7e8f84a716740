"""SIFT keypoints with RootSIFT descriptors, bounded in number, spread over the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]

DETECTION_PIXELS = 3_000_000
"""Above this many pixels keypoints are sought in a reduced copy; what they propose is verified at native resolution."""
TILE_PX = 1024
OVERLAP_PX = 32
CONTRAST = 0.01
"""SIFT contrast threshold: a quarter of Lowe's, so that weakly textured copies have keypoints too."""


@dataclass(frozen=True, eq=False)
class Keypoints:
    """N keypoints; coordinates in native pixels, pixel centres at integers."""

    xy: FloatArray
    """Shape (N, 2), pixels."""
    scale: FloatArray
    """Shape (N,), diameter of the described neighbourhood in native pixels."""
    angle: FloatArray
    """Shape (N,), radians."""
    descriptors: FloatArray
    """Shape (N, 128), RootSIFT: non-negative, unit Euclidean length (Arandjelovic, Zisserman: CVPR 2012)."""

    def __len__(self) -> int:
        return len(self.scale)


def find_keypoints(luma: ByteArray, budget: int) -> Keypoints:
    """Detects SIFT keypoints (Lowe: IJCV 2004) tile by tile, so that memory does not grow with the picture.

    Args:
        luma: shape (H, W), 0..255.
        budget: most keypoints; shared equally among the tiles, the strongest of each cell of a grid kept first.
    """
    factor = 1
    while luma.size / factor**2 > DETECTION_PIXELS:
        factor *= 2
    image = luma if factor == 1 else _reduce(luma, factor)
    tiles = _tiles(*image.shape)
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=CONTRAST)
    parts = [_tile_keypoints(sift, image, tile, max(1, budget // len(tiles))) for tile in tiles]
    xy = np.concatenate([part.xy for part in parts])
    offset = (factor - 1) / 2  # the centre of a reduced pixel in native coordinates
    return Keypoints(
        np.asarray(xy * factor + offset, dtype=np.float32),
        np.concatenate([part.scale for part in parts]) * factor,
        np.concatenate([part.angle for part in parts]),
        np.concatenate([part.descriptors for part in parts]),
    )


def _reduce(luma: ByteArray, factor: int) -> ByteArray:
    height, width = luma.shape[0] // factor * factor, luma.shape[1] // factor * factor
    size = (width // factor, height // factor)
    return np.asarray(cv2.resize(luma[:height, :width], size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _tiles(height: int, width: int) -> list[tuple[int, int, int, int]]:
    rows = -(-height // TILE_PX)
    columns = -(-width // TILE_PX)
    tops = np.linspace(0, height, rows + 1).astype(int)
    lefts = np.linspace(0, width, columns + 1).astype(int)
    return [
        (int(tops[i]), int(tops[i + 1]), int(lefts[j]), int(lefts[j + 1])) for i in range(rows) for j in range(columns)
    ]


def _tile_keypoints(sift: cv2.SIFT, image: ByteArray, tile: tuple[int, int, int, int], budget: int) -> Keypoints:
    top, bottom, left, right = tile
    y0, x0 = max(0, top - OVERLAP_PX), max(0, left - OVERLAP_PX)
    part = image[y0 : bottom + OVERLAP_PX, x0 : right + OVERLAP_PX]
    found = [
        keypoint
        for keypoint in sift.detect(part, None)
        if left <= keypoint.pt[0] + x0 < right and top <= keypoint.pt[1] + y0 < bottom
    ]
    kept = spread(found, budget)
    if not kept:
        return Keypoints(*(np.zeros(shape, np.float32) for shape in ((0, 2), (0,), (0,), (0, 128))))
    described, raw = sift.compute(part, kept)
    descriptors = np.sqrt(raw / np.maximum(raw.sum(axis=1, keepdims=True), 1e-9))
    return Keypoints(
        np.asarray([(k.pt[0] + x0, k.pt[1] + y0) for k in described], np.float32),
        np.asarray([k.size for k in described], np.float32),
        np.deg2rad(np.asarray([k.angle for k in described], np.float32)),
        descriptors.astype(np.float32),
    )


def spread(keypoints: Sequence[cv2.KeyPoint], budget: int, cell_px: int = 32) -> list[cv2.KeyPoint]:
    """The `budget` keypoints that come first when every cell in turn gives its strongest, then its second, ..."""
    if len(keypoints) <= budget:
        return list(keypoints)
    xy = np.asarray([k.pt for k in keypoints])
    response = np.asarray([k.response for k in keypoints])
    cell = (xy[:, 1] // cell_px).astype(np.int64) * 100_000 + (xy[:, 0] // cell_px).astype(np.int64)
    order = np.lexsort((-response, cell))
    starts = np.flatnonzero(np.r_[True, np.diff(cell[order]) != 0])
    lengths = np.diff(np.r_[starts, len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, lengths)
    chosen = order[np.lexsort((-response[order], rank))[:budget]]
    return [keypoints[i] for i in np.sort(chosen)]
