"""noise.low_noise_regions: its counting against a slow reference, its null hypothesis, and known splices."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.noise.low_noise import BLOCK_PX, quiet_blocks
from vision_service.tools.noise.low_noise_regions import LOW_NOISE_REGIONS, scan

Decoder = Callable[[bytes], Substrate]


def white(height: int, width: int, seed: int, sigma: float = 4.0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(128, sigma, (height, width)).astype(np.float32))


def reference_quiet(luma: np.ndarray, bins: int) -> dict[tuple[int, int], bool]:
    """The selection block by block: OpenCV's DCT is even-sized only, so the transform is written out."""
    k = np.arange(BLOCK_PX)
    dct = np.sqrt(2 / BLOCK_PX) * np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK_PX))
    dct[0] /= np.sqrt(2)
    blocks: list[tuple[float, float, float, tuple[int, int]]] = []
    for y in range(0, luma.shape[0] - BLOCK_PX + 1, BLOCK_PX):
        for x in range(0, luma.shape[1] - BLOCK_PX + 1, BLOCK_PX):
            block = luma[y : y + BLOCK_PX, x : x + BLOCK_PX].astype(np.float64)
            energy = (dct @ block @ dct.T) ** 2
            low = sum(energy[i, j] for i in range(BLOCK_PX) for j in range(BLOCK_PX) if 0 < i + j < 5)
            high = sum(energy[i, j] for i in range(BLOCK_PX) for j in range(BLOCK_PX) if i + j >= 5)
            blocks.append((float(block.mean()), float(low), float(high), (y, x)))
    blocks.sort()
    size = len(blocks) // bins
    result: dict[tuple[int, int], bool] = {}
    for b in range(bins):
        flat = sorted(blocks[b * size : (b + 1) * size], key=lambda v: v[1] / (v[2] + 5))[: int(0.3 * size)]
        flat.sort(key=lambda v: v[2])
        result |= {v[3]: rank < int(0.5 * len(flat)) for rank, v in enumerate(flat)}
    return result


def test_selection_equals_the_slow_reference() -> None:
    luma = white(330, 400, 0)
    seen = quiet_blocks(luma)
    assert seen is not None
    expected = reference_quiet(luma.numpy(), seen.bins)
    got = dict(zip(zip(seen.row_px.tolist(), seen.column_px.tolist(), strict=True), seen.quiet.tolist(), strict=True))
    assert len(set(got.items()) ^ set(expected.items())) <= 0.02 * len(expected)  # ties of float32 sums


def test_scan_equals_a_loop_over_all_rectangles() -> None:
    rng = np.random.default_rng(4)
    n = rng.integers(0, 9, (7, 9)).astype(np.float64)
    k = rng.binomial(n.astype(int), 0.5).astype(np.float64)
    k[2:4, 3:6] = n[2:4, 3:6] = 9
    best = scan(n, k)[0]
    z = {}
    for y0 in range(7):
        for y1 in range(y0 + 1, 8):
            for x0 in range(9):
                for x1 in range(x0 + 1, 10):
                    total, quiet = n[y0:y1, x0:x1].sum(), k[y0:y1, x0:x1].sum()
                    if 8 <= total <= n.sum() / 2:
                        z[y0, x0, y1, x1] = (quiet - total / 2) / np.sqrt(total)
    y0, x0, y1, x1 = max(z, key=lambda key: z[key])
    assert (best.box.y_px, best.box.x_px) == (y0, x0)
    assert (best.box.height_px, best.box.width_px) == (y1 - y0, x1 - x0)


def test_counts_of_one_noise_model_give_fewer_alarms_than_stated() -> None:
    rng = np.random.default_rng(5)
    alarms = 0
    for _ in range(1000):
        n = rng.poisson(6.0, (12, 16)).astype(np.float64)
        found = scan(n, rng.binomial(n.astype(int), 0.5).astype(np.float64))
        alarms += bool(found) and found[0].log10_nfa < -1
    assert alarms <= 100


@pytest.mark.parametrize("quality", [None, 95])
def test_a_region_of_a_noisier_sensor_is_found(quality: int | None, to_substrate: Decoder) -> None:
    sensors = (camera.Sensor(3e-4 * gain, 2e-3 * gain**0.5) for gain in (1.0, 8.0))
    picture, foreign = (camera.photo(1100, 1100, 2, sensor) for sensor in sensors)
    picture[200:440, 240:480] = foreign[200:440, 240:480]
    data = camera.to_png(picture) if quality is None else camera.to_jpeg(picture, quality)
    seen = LOW_NOISE_REGIONS.run(to_substrate(data))
    assert seen.detected
    assert seen.explanation_key == "noise.low_noise_regions.detected_noisier"
    region = seen.regions[0]
    assert abs(region.x_px - 240) <= 64
    assert abs(region.y_px - 200) <= 64


def test_untouched_photos_are_not_detected(to_substrate: Decoder) -> None:
    for seed in range(4):
        rgb = camera.photo(560, 560, seed)
        data = camera.to_png(rgb) if seed % 2 else camera.to_jpeg(rgb, 86 + seed)
        assert not LOW_NOISE_REGIONS.run(to_substrate(data)).detected


@pytest.mark.parametrize("shape", [(1, 1), (4, 8), (4000, 100), (600, 600)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_are_not_applicable(shape: tuple[int, int], value: int, to_substrate: Decoder) -> None:
    seen = LOW_NOISE_REGIONS.run(to_substrate(camera.to_png(np.full((*shape, 3), value, dtype=np.uint8))))
    assert seen.explanation_key.startswith("not_applicable.")
