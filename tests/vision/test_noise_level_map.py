"""noise.level_map on pictures whose noise is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.noise.blocks import block_statistics
from vision_service.tools.noise.level_map import LEVEL_MAP

Decoder = Callable[[bytes], Substrate]


def smooth_photo(seed: int, sensor: camera.Sensor, side: int = 512) -> camera.ByteArray:
    rng = np.random.default_rng(seed)
    return camera.expose(camera.scene(side, side, rng, leaves=40), rng, sensor)


def spliced(seed: int, foreign: camera.Sensor) -> camera.ByteArray:
    """A picture of a plain sensor with the same scene taken by a foreign sensor in rows and columns 160..320."""
    picture = smooth_photo(seed, camera.Sensor())
    picture[160:320, 160:320] = smooth_photo(seed, foreign)[160:320, 160:320]
    return picture


def test_block_noise_of_white_noise_is_its_deviation() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).normal(128, 5, (520, 1040)).astype(np.float32))
    blocks = block_statistics(noise)
    assert blocks.noise.shape == (65, 130)
    assert float(blocks.noise.mean()) == pytest.approx(5, rel=0.02)
    assert float(np.sqrt((blocks.texture**2).mean())) == pytest.approx(5 / 4 * np.sqrt(3 / 4), rel=0.03)


def test_block_statistics_do_not_depend_on_strips() -> None:
    luma = torch.from_numpy(np.random.default_rng(0).uniform(0, 255, (1100, 64)).astype(np.float32))
    whole = block_statistics(luma)
    part = block_statistics(luma[504:600])
    np.testing.assert_allclose(whole.noise[64:74], part.noise[1:11], rtol=1e-5)


@pytest.mark.parametrize("gain", [9.0, 1 / 9])
def test_a_region_of_foreign_noise_is_found(gain: float, to_substrate: Decoder) -> None:
    plain = camera.Sensor()
    foreign = camera.Sensor(shot=plain.shot * gain, read=plain.read * gain**0.5)
    seen = LEVEL_MAP.run(to_substrate(camera.to_png(spliced(5, foreign))))
    assert seen.detected
    assert seen.explanation_key == "noise.level_map." + ("detected_noisier" if gain > 1 else "detected_cleaner")
    region = seen.regions[0]
    assert 100 <= region.x_px <= 200
    assert 100 <= region.y_px <= 200
    assert region.x_px + region.width_px <= 360


def test_untouched_photos_are_not_detected(to_substrate: Decoder) -> None:
    for seed in range(16):
        rgb = smooth_photo(seed, camera.Sensor(), 256)
        data = camera.to_png(rgb) if seed % 2 else camera.to_jpeg(rgb, 80 + seed % 20)
        assert not LEVEL_MAP.run(to_substrate(data)).detected


@pytest.mark.parametrize("shape", [(1, 1), (8, 8), (1, 4000), (128, 128), (300, 200)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_are_not_applicable(shape: tuple[int, int], value: int, to_substrate: Decoder) -> None:
    seen = LEVEL_MAP.run(to_substrate(camera.to_png(np.full((*shape, 3), value, dtype=np.uint8))))
    assert seen.explanation_key.startswith("not_applicable.")
