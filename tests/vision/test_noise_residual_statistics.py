"""noise.residual_statistics: counts against a slow reference, the mixture on known data, the map on a known splice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.noise.cooccurrence import BINS, cell_histograms, merged_bins
from vision_service.tools.noise.residual_statistics import RESIDUAL_STATISTICS, two_classes, window_features

Decoder = Callable[[bytes], Substrate]


def test_patterns_that_are_reversed_or_negated_share_a_bin() -> None:
    bins = merged_bins()
    assert set(bins.tolist()) == set(range(BINS))
    for code in range(81):
        values = [code // 3**i % 3 for i in range(4)]
        for form in (values[::-1], [2 - v for v in values]):
            assert bins[sum(v * 3**i for i, v in enumerate(form))] == bins[code]


def slow_counts(luma: np.ndarray, cell: tuple[int, int], across: bool) -> Counter[int]:
    """Patterns of rows and columns of one cell of 16 px, position by position."""
    found: Counter[int] = Counter()
    top, left = cell[0] * 16, cell[1] * 16
    for dy, dx in ((0, 1), (1, 0)):
        step_y, step_x = (dx, dy) if across else (dy, dx)
        for y in range(top, top + 16 - 3 * (dy + step_y)):
            for x in range(left, min(left + 16, luma.shape[1] - 3 * (dx + step_x)), 2):
                code = 0
                for i in range(4):
                    a, b, c, d = (float(luma[y + i * step_y + n * dy, x + i * step_x + n * dx]) for n in range(4))
                    code += int(np.clip(np.rint((d - 3 * c + 3 * b - a) / 2), -1, 1) + 1) * 3**i
                found[int(merged_bins()[code])] += 1
    return found


def test_histograms_equal_the_slow_reference() -> None:
    luma = np.random.default_rng(0).integers(100, 106, (48, 64)).astype(np.float32)
    counts = cell_histograms(torch.from_numpy(luma), 16)
    assert counts.shape == (3, 4, 2, BINS)
    for cell in ((0, 0), (1, 2), (2, 3)):
        for kind, across in enumerate((False, True)):
            expected = slow_counts(luma, cell, across)
            assert counts[cell][kind].tolist() == [expected[b] for b in range(BINS)]


def test_window_features_have_unit_norm() -> None:
    features = window_features(np.random.default_rng(1).integers(0, 9, (10, 12, 2, BINS)).astype(np.float64))
    assert features.shape == (3, 5, 50)
    np.testing.assert_allclose((features**2).sum(axis=2), 2.0)


def test_the_mixture_separates_two_known_classes() -> None:
    rng = np.random.default_rng(2)
    points = np.concatenate([rng.normal(0, 1, (800, 3)), rng.normal([6, 0, 0], 1, (200, 3))])
    fit = two_classes(points - points.mean(axis=0))
    assert fit.minority == pytest.approx(0.2, abs=0.01)
    assert ((fit.log_ratio > 0) == (np.arange(1000) >= 800)).mean() > 0.99
    assert fit.gain > 0.3


def test_one_class_gains_almost_nothing() -> None:
    for seed in range(20):
        points = np.random.default_rng(seed).normal(0, 1, (600, 3))
        assert two_classes(points - points.mean(axis=0)).gain < 0.05


def test_the_map_shows_a_region_of_other_statistics(to_substrate: Decoder) -> None:
    rng = np.random.default_rng(3)
    luma = rng.normal(128, 3, (512, 512))
    luma[128:352, 160:384] = 128 + 3 * (rng.normal(0, 1, (224, 225))[:, 1:] + rng.normal(0, 1, (224, 224))) / 4
    grey = np.clip(np.rint(luma), 0, 255).astype(np.uint8)
    seen = RESIDUAL_STATISTICS.run(to_substrate(camera.to_png(np.repeat(grey[:, :, None], 3, axis=2))))
    assert seen.heat_map is not None
    assert seen.heat_map.values.shape == (32, 32)
    inside = np.zeros((32, 32), dtype=bool)
    inside[12:18, 14:20] = True
    outside = np.ones((32, 32), dtype=bool)
    outside[4:26, 6:28] = False
    assert np.median(seen.heat_map.values[inside]) > 200
    assert np.median(seen.heat_map.values[outside]) < 50
    assert seen.score > 0.3
    assert not seen.detected


@pytest.mark.parametrize("shape", [(1, 1), (255, 900), (1, 4000), (300, 300)])
@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_are_not_applicable(shape: tuple[int, int], value: int, to_substrate: Decoder) -> None:
    seen = RESIDUAL_STATISTICS.run(to_substrate(camera.to_png(np.full((*shape, 3), value, dtype=np.uint8))))
    assert seen.explanation_key.startswith("not_applicable.")
