"""Regions with an earlier JPEG grid of their own: sums against a slow reference, pastes found, history left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import camera
from benchmarks.pasted_jpeg import SIDE_PX, paste
from vision_service.domain import Outcome
from vision_service.substrate import Substrate
from vision_service.tools.frequency import foreign_grid, pasted_jpeg
from vision_service.tools.frequency.local_periodicity import CELL_PX, cell_sums, log10_p, window_sums

ToSubstrate = Callable[[bytes], Substrate]


def test_cell_sums_are_those_of_single_blocks() -> None:
    luma = camera.photo(80, 88, 3)[:, :, 1].astype(np.float32)
    sums = cell_sums(torch.from_numpy(luma), (7,))
    for grid, row, column in ((0, 0, 1), (11, 1, 0), (62, 1, 1)):
        cosine, count = 0.0, 0
        for y in range(row * CELL_PX + grid // 8, (row + 1) * CELL_PX, 8):
            for x in range(column * CELL_PX + grid % 8, (column + 1) * CELL_PX, 8):
                block, left = luma[y : y + 8, x : x + 8].sum(), luma[y : y + 8, x - 8 : x].sum()
                if x >= 8 and abs(block - left) > 16:
                    cosine += np.cos(2 * np.pi * (block / 8 - 1024) / 7)
                    count += 1
        assert sums.counts[grid, row, column] == count
        assert sums.cosines[0, grid, row, column] == pytest.approx(cosine, abs=1e-3)


def test_window_sums_are_sums() -> None:
    values = np.random.default_rng(1).normal(size=(2, 5, 6))
    assert window_sums(values, 3)[1, 2, 1] == pytest.approx(values[1, 2:5, 1:4].sum())


def test_p_values_of_uniform_phases_are_p_values() -> None:
    phases = np.random.default_rng(2).uniform(0, 2 * np.pi, (400, 64, 60))
    p = log10_p(np.cos(phases).sum(axis=2).T[:, :, None], np.full((64, 400, 1), 60.0))[9, :, 0]
    assert (p < -2).mean() <= 0.025
    assert (p < -1).mean() == pytest.approx(0.08, abs=0.05)


@pytest.mark.parametrize(("first", "last"), [(75, 90), (85, 95)])
def test_a_pasted_region_is_found_where_zeros_are_filled(to_substrate: ToSubstrate, first: int, last: int) -> None:
    forged = paste(3, first, last)
    substrate = to_substrate(forged.data)
    seen = pasted_jpeg.run(substrate)
    zeros = foreign_grid.run(substrate)
    assert seen.detected > zeros.detected
    numbers = {m.name: m.value for m in seen.measurements}
    assert [int(numbers[f"earlier_grid_{axis}"]) for axis in "xy"] == list(forged.grid)
    box = seen.regions[0]
    overlap_x = min(box.x_px + box.width_px, forged.x + SIDE_PX) - max(box.x_px, forged.x)
    overlap_y = min(box.y_px + box.height_px, forged.y + SIDE_PX) - max(box.y_px, forged.y)
    assert overlap_x * overlap_y > 0.5 * SIDE_PX**2
    assert seen.heat_map is not None
    assert seen.heat_map.significant


def test_a_crop_is_history_and_no_region(to_substrate: ToSubstrate) -> None:
    first = camera.from_file(camera.to_jpeg(camera.photo(400, 400, 4), 60))
    seen = pasted_jpeg.run(to_substrate(camera.to_jpeg(np.ascontiguousarray(first[3:, 6:]), 95)))
    assert not seen.detected
    assert {m.name: m.value for m in seen.measurements}["grids_all_over"] >= 1


def test_a_drawing_that_repeats_few_values_is_no_region(to_substrate: ToSubstrate) -> None:
    rng = np.random.default_rng(5)
    page = camera.photo(400, 400, 6)
    tile = rng.integers(0, 2, (8, 8, 3), dtype=np.uint8) * 255
    page[100:260, 100:260] = np.tile(tile, (20, 20, 1))
    assert not pasted_jpeg.run(to_substrate(camera.to_jpeg(page, 95))).detected


@pytest.mark.parametrize("side", [1, 8, 150])
def test_too_small_is_said(to_substrate: ToSubstrate, side: int) -> None:
    seen = pasted_jpeg.run(to_substrate(camera.to_jpeg(np.full((side, side, 3), 99, np.uint8))))
    assert seen.outcome is Outcome.NOT_APPLICABLE


def test_without_jpeg_and_below_every_step_it_does_not_apply(to_substrate: ToSubstrate) -> None:
    rgb = camera.photo(264, 264, 7)
    assert pasted_jpeg.run(to_substrate(camera.to_png(rgb))).outcome is Outcome.NOT_APPLICABLE
    assert pasted_jpeg.run(to_substrate(camera.to_jpeg(rgb, 20))).outcome is Outcome.NOT_APPLICABLE
