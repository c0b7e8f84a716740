"""Fusion of heat maps: geometry, significance, weights."""

from __future__ import annotations

import numpy as np
import pytest

from vision_service.domain import HeatMap
from vision_service.tools.spatial.fused_map import fuse_maps


def heat(values: list[list[int]], cell_px: int, *, significant: bool = False) -> HeatMap:
    return HeatMap(np.array(values, np.uint8), cell_px, "test", significant=significant)


def test_without_maps_the_result_is_dark_and_proves_nothing() -> None:
    fused = fuse_maps([], 20, 33)
    assert fused.values.shape == (3, 5)
    assert fused.cell_px == 8
    assert not fused.values.any()
    assert not fused.significant


def test_only_significant_maps_light_up_where_there_is_one() -> None:
    proof = heat([[0, 255]], 8, significant=True)
    hint = heat([[255, 255]], 8)
    fused = fuse_maps([(proof, 1.0), (hint, 5.0)], 8, 16)
    assert fused.significant
    assert fused.values.tolist() == [[0, 255]]


def test_a_significant_map_without_weight_counts_for_nothing() -> None:
    fused = fuse_maps([(heat([[255]], 8, significant=True), 0.0), (heat([[100]], 8), 1.0)], 8, 8)
    assert not fused.significant
    assert fused.values.tolist() == [[100]]


def test_insignificant_maps_are_averaged_by_weight() -> None:
    fused = fuse_maps([(heat([[200]], 8), 3.0), (heat([[40]], 8), 1.0)], 8, 8)
    assert fused.values.tolist() == [[160]]


def test_two_significant_maps_agree_more_than_either() -> None:
    one = heat([[128, 128]], 8, significant=True)
    other = heat([[128, 0]], 8, significant=True)
    values = fuse_maps([(one, 1.0), (other, 1.0)], 8, 16).values
    assert values[0, 0] == pytest.approx(255 * (1 - (1 - 128 / 255) ** 2), abs=1)
    assert values[0, 1] == 128


@pytest.mark.parametrize("cell_px", [1, 3, 8, 12, 64])
def test_resampling_is_the_area_average_of_the_pixels(cell_px: int) -> None:
    height, width = 45, 70
    rng = np.random.default_rng(cell_px)
    values = rng.integers(0, 256, (-(-height // cell_px), -(-width // cell_px))).astype(np.uint8)
    pixels = values.repeat(cell_px, 0).repeat(cell_px, 1)[:height, :width].astype(float)
    expected = [[pixels[y : y + 8, x : x + 8].mean() for x in range(0, width, 8)] for y in range(0, height, 8)]
    fused = fuse_maps([(HeatMap(values, cell_px, "test"), 2.0)], height, width)
    assert np.abs(fused.values - np.array(expected)).max() <= 0.51


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_a_senseless_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        fuse_maps([(heat([[1]], 8), weight)], 8, 8)


def test_a_map_of_another_picture_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        fuse_maps([(heat([[1, 2]], 8), 1.0)], 8, 8)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(ValueError, match="no map"):
        fuse_maps([], 0, 8)
