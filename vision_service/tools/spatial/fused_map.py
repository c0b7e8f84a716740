"""One map of the whole picture from the maps of all tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vision_service.domain import HeatMap

FUSED_CELL_PX = 8
"""Side in pixels of a cell of the fused map."""


def fuse_maps(maps: Sequence[tuple[HeatMap, float]], height_px: int, width_px: int) -> HeatMap:
    """Fuses heat maps into one.

    Where a test with a weight above 0 has a significant map, only significant maps count, combined as independent
    reasons for suspicion: 1 - prod(1 - v_i w_i / max w), so that nothing lights up that no test has proved. Otherwise
    the fused map is the weighted mean of the rest and proves nothing.

    Args:
        maps: maps with weights (>= 0, finite), for instance the log10 likelihood ratio of the test.
        height_px: height of the picture.
        width_px: width of the picture.

    Returns:
        Map of shape (ceil(height / 8), ceil(width / 8)), 8 px cells; all 0 when there is no map with weight.

    Raises:
        ValueError: a negative or non-finite weight, a picture without pixels, or a map that does not fit the picture.
    """
    if height_px < 1 or width_px < 1:
        raise ValueError(f"a picture of {width_px} x {height_px} px has no map")
    for heat_map, weight in maps:
        _check(heat_map, weight, height_px, width_px)
    shape = (-(-height_px // FUSED_CELL_PX), -(-width_px // FUSED_CELL_PX))
    weighted = [(heat_map, weight) for heat_map, weight in maps if weight > 0]
    proven = [(heat_map, weight) for heat_map, weight in weighted if heat_map.significant]
    if not weighted:
        return HeatMap(np.zeros(shape, np.uint8), FUSED_CELL_PX, "No test made a map of this picture.")
    used = proven or weighted
    layers = [(_resample(heat_map, height_px, width_px), weight) for heat_map, weight in used]
    if proven:
        values = _united(layers)
        return HeatMap(_bytes(values), FUSED_CELL_PX, "Tests found significant traces of editing here.", True)
    total = sum(weight for _, weight in layers)
    mean = sum((values * (weight / total) for values, weight in layers), np.zeros(shape))
    return HeatMap(_bytes(mean), FUSED_CELL_PX, "The picture differs from itself here; this alone proves nothing.")


def _check(heat_map: HeatMap, weight: float, height_px: int, width_px: int) -> None:
    if not math.isfinite(weight) or weight < 0:
        raise ValueError(f"the weight of a map must be a finite number from 0, not {weight}")
    expected = (-(-height_px // heat_map.cell_px), -(-width_px // heat_map.cell_px))
    if heat_map.values.shape != expected:
        raise ValueError(f"a map of {heat_map.cell_px} px cells has shape {heat_map.values.shape}, not {expected}")


def _united(layers: Sequence[tuple[npt.NDArray[np.float64], float]]) -> npt.NDArray[np.float64]:
    strongest = max(weight for _, weight in layers)
    doubt = np.ones_like(layers[0][0])
    for values, weight in layers:
        doubt = doubt * (1.0 - values * (weight / strongest))
    return 1.0 - doubt


def _resample(heat_map: HeatMap, height_px: int, width_px: int) -> npt.NDArray[np.float64]:
    """Area average over the cells of the fused map, 0..1; exact for every cell size."""
    rows = _overlaps(height_px, heat_map.cell_px)
    columns = _overlaps(width_px, heat_map.cell_px)
    values: npt.NDArray[np.float64] = rows @ (heat_map.values / 255.0) @ columns.T
    return values


def _overlaps(side_px: int, cell_px: int) -> npt.NDArray[np.float64]:
    """Share of each input cell in each output cell along one axis; rows sum to 1."""
    ends_in = np.minimum(np.arange(0, -(-side_px // cell_px) + 1) * cell_px, side_px)
    ends_out = np.minimum(np.arange(0, -(-side_px // FUSED_CELL_PX) + 1) * FUSED_CELL_PX, side_px)
    start = np.maximum(ends_in[None, :-1], ends_out[:-1, None])
    end = np.minimum(ends_in[None, 1:], ends_out[1:, None])
    shared = np.maximum(end - start, 0).astype(np.float64)
    return np.asarray(shared / shared.sum(axis=1, keepdims=True))


def _bytes(values: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    return np.rint(255 * np.clip(values, 0, 1)).astype(np.uint8)
