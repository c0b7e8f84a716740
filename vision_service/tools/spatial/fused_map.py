"""One map over the picture made of the maps of several tests."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.domain import HeatMap

CELL_PX = 8
"""Side of a cell of the fused map."""


def fuse_maps(maps: Sequence[tuple[HeatMap, float]], height_px: int, width_px: int) -> HeatMap:
    """Weighted mean of heat maps on a common grid of 8 px cells.

    Where one of the maps passed its test's threshold, the fused map is that evidence alone: maps that prove nothing do
    not brighten cells beyond half of the scale.

    Args:
        maps: heat maps with weights >= 0, e.g. the log10 likelihood ratios of their findings; at least one above 0.
        height_px: height of the picture.
        width_px: width of the picture.

    Returns:
        Map of shape (ceil(height / 8), ceil(width / 8)); significant when one of the maps that count is.

    Raises:
        ValueError: no weight is above 0.
    """
    shape = (-(-height_px // CELL_PX), -(-width_px // CELL_PX))
    counting = [(heat_map, weight) for heat_map, weight in maps if weight > 0]
    if not counting:
        raise ValueError("fuse_maps needs a map with a weight above 0")
    proven = [_weighted(heat_map, weight, shape) for heat_map, weight in counting if heat_map.significant]
    other = [_weighted(heat_map, weight, shape) for heat_map, weight in counting if not heat_map.significant]
    total = sum(weight for _, weight in counting)
    fused = np.zeros(shape, dtype=np.float32)
    if other:
        fused = np.minimum(np.sum(other, axis=0) / total, 127.5)
    if proven:
        strongest = sum(weight for heat_map, weight in counting if heat_map.significant)
        fused = np.maximum(fused, np.sum(proven, axis=0) / strongest)
    return HeatMap(
        values=np.rint(np.clip(fused, 0, 255)).astype(np.uint8),
        cell_px=CELL_PX,
        meaning="Bright cells are where the tests that found something agree, weighted by their evidence.",
        significant=bool(proven),
    )


def _weighted(heat_map: HeatMap, weight: float, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    rows, columns = heat_map.values.shape
    scale = CELL_PX / heat_map.cell_px
    size = (max(shape[1], round(columns / scale)), max(shape[0], round(rows / scale)))
    interpolation = cv2.INTER_AREA if scale > 1 else cv2.INTER_NEAREST
    resized = cv2.resize(heat_map.values, size, interpolation=interpolation)[: shape[0], : shape[1]]
    return np.asarray(weight * resized.astype(np.float32), dtype=np.float32)
