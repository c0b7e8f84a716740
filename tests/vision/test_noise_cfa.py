"""noise.cfa: votes against a slow reference, no votes under the null hypothesis, known sensors and splices."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.noise.cfa import CELL_PX, CFA, lattice_votes

Decoder = Callable[[bytes], Substrate]


def test_votes_equal_the_slow_reference() -> None:
    green = np.random.default_rng(0).integers(0, 256, (70, 55)).astype(np.uint8)
    g = green.astype(np.float64)
    votes = lattice_votes(torch.from_numpy(green))
    assert votes.odd.shape == (4, 3)
    for row in range(4):
        for column in range(3):
            energy = [0.0, 0.0]
            for y in range(row * CELL_PX + 1, (row + 1) * CELL_PX + 1):
                for x in range(column * CELL_PX + 1, (column + 1) * CELL_PX + 1):
                    error = g[y, x] - (g[y - 1, x] + g[y + 1, x] + g[y, x - 1] + g[y, x + 1]) / 4
                    energy[(x + y) % 2] += error**2
            assert bool(votes.odd[row, column]) == (energy[0] > energy[1])


def test_votes_do_not_depend_on_strips() -> None:
    green = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1300, 40)).astype(np.uint8))
    whole, part = lattice_votes(green), lattice_votes(green[992:1200])
    np.testing.assert_array_equal(whole.odd[62:74], part.odd)


def test_noise_without_a_sensor_has_no_trace() -> None:
    rng = np.random.default_rng(2)
    for _ in range(50):
        votes = lattice_votes(torch.from_numpy(rng.normal(128, 8, (194, 194)).astype(np.float32)))
        assert votes.cells >= 100
        assert not votes.camera_trace


@pytest.mark.parametrize("quality", [None, 98])
def test_a_camera_original_shows_its_lattice(quality: int | None, to_substrate: Decoder) -> None:
    photo = camera.photo(384, 384, 3)
    seen = CFA.run(to_substrate(camera.to_png(photo) if quality is None else camera.to_jpeg(photo, quality)))
    assert seen.explanation_key == "noise.cfa.camera_trace"
    assert seen.score < -5
    assert not seen.detected


@pytest.mark.parametrize("shift", [0, 1])
def test_only_a_patch_moved_by_an_odd_step_breaks_the_lattice(shift: int, to_substrate: Decoder) -> None:
    photo = camera.photo(512, 512, 4)
    photo[160:384, 160:384] = photo[20 + shift : 244 + shift, 200:424].copy()
    seen = CFA.run(to_substrate(camera.to_png(photo)))
    assert seen.detected == bool(shift)
    if shift:
        region = seen.regions[0]
        assert abs(region.x_px - 160) <= 16
        assert abs(region.y_px - 160) <= 16
        assert seen.heat_map is not None
        assert seen.heat_map.values.shape == (32, 32)


@pytest.fixture(scope="module")
def original() -> camera.ByteArray:
    return camera.photo(384, 384, 5)


@pytest.mark.parametrize("factor", [0.5, 0.75, 1.3, 2.0])
@pytest.mark.parametrize("method", [cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC])
def test_resized_pictures_show_no_camera_trace(
    factor: float, method: int, original: camera.ByteArray, to_substrate: Decoder
) -> None:
    side = round(384 * factor)
    resized = cv2.resize(original, (side, side), interpolation=method)
    seen = CFA.run(to_substrate(camera.to_png(np.asarray(resized, dtype=np.uint8))))
    assert seen.explanation_key in {"noise.cfa.not_detected", "not_applicable.no_texture"}
    assert seen.score == 0.0


@pytest.mark.parametrize("shape", [(1, 1), (17, 90), (1, 4000), (300, 200)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_are_not_applicable(shape: tuple[int, int], value: int, to_substrate: Decoder) -> None:
    seen = CFA.run(to_substrate(camera.to_png(np.full((*shape, 3), value, dtype=np.uint8))))
    assert seen.explanation_key.startswith("not_applicable.")
