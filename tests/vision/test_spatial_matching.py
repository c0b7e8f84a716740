"""Groups of matches: planted transforms are recovered, chance is recognised as chance."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import binom

from vision_service.tools.spatial import matching
from vision_service.tools.spatial.autocorrelation import similar_shifts
from vision_service.tools.spatial.keypoints import Keypoints

Array = npt.NDArray[np.float32]


def keypoints(xy: npt.NDArray[np.float64], descriptors: npt.NDArray[np.float64]) -> Keypoints:
    unit = descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)
    ones = np.ones(len(xy), np.float32)
    return Keypoints(xy.astype(np.float32), 4 * ones, 0 * ones, unit.astype(np.float32))


def random_matches(count: int, seed: int) -> matching.Matches:
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(0, 500, (2, count, 2)).astype(np.float32)
    turn = rng.uniform(-np.pi, np.pi, count).astype(np.float32)
    scale = rng.uniform(-np.log(2), np.log(2), count).astype(np.float32)
    both = (np.concatenate([source, target]), np.concatenate([target, source]))
    return matching.Matches(*both, np.concatenate([turn, -turn]), np.concatenate([scale, -scale]))


def test_matches_are_the_similar_distant_pairs_in_both_directions() -> None:
    rng = np.random.default_rng(1)
    descriptors = np.abs(rng.standard_normal((40, 128))) ** 3
    descriptors[20] = descriptors[3]  # a copy far away
    descriptors[21] = descriptors[4]  # the same keypoint twice
    xy = rng.uniform(0, 400, (40, 2))
    xy[3], xy[20], xy[4], xy[21] = (10, 10), (300, 200), (50, 50), (55, 50)
    found = matching.match(keypoints(xy, descriptors), torch.device("cpu"))
    pairs = {tuple(np.r_[a, b].tolist()) for a, b in zip(found.source, found.target, strict=True)}
    assert pairs == {(10, 10, 300, 200), (300, 200, 10, 10)}


def test_a_planted_transform_is_recovered_among_random_matches() -> None:
    noise = random_matches(150, 2)
    rng = np.random.default_rng(3)
    linear = 1.2 * np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]])
    source = rng.uniform(50, 150, (12, 2)).astype(np.float32)
    target = (source @ linear.T + [200, 120] + rng.normal(0, 0.3, (12, 2))).astype(np.float32)
    turn, scale = np.full(12, 0.5, np.float32), np.full(12, np.log(1.2), np.float32)
    half = 150
    joined = matching.Matches(
        np.concatenate([noise.source[:half], source, noise.source[half:], target]),
        np.concatenate([noise.target[:half], target, noise.target[half:], source]),
        np.concatenate([noise.rotation[:half], turn, noise.rotation[half:], -turn]),
        np.concatenate([noise.log_scale[:half], scale, noise.log_scale[half:], -scale]),
    )
    first = matching.clusters(joined, 500 * 500, 3)[0]
    forward = first.transform if np.linalg.det(first.transform[:, :2]) > 1 else None
    if forward is not None:
        np.testing.assert_allclose(forward, np.c_[linear, [200, 120]], atol=2.0)
    else:
        back = np.linalg.inv(linear)
        np.testing.assert_allclose(first.transform[:, :2], back, atol=0.05)
    assert len(first.source) >= 10
    assert first.log10_nfa < -20


def test_random_matches_make_no_significant_group() -> None:
    alarms = 0
    for seed in range(20):
        alarms += sum(c.log10_nfa < -3 for c in matching.clusters(random_matches(150, 100 + seed), 500 * 500, 6))
    assert alarms == 0


@pytest.mark.parametrize(("agreeing", "count"), [(4, 30), (6, 500), (12, 1200)])
def test_the_number_of_false_alarms_is_the_binomial_tail(agreeing: int, count: int) -> None:
    area = 512 * 512
    p = np.pi * 4 / area * (matching.ANGLE_TOLERANCE / np.pi) * (matching.LOG_SCALE_TOLERANCE / np.log(2))
    expected = 2 * np.log10(count) + binom.logsf(agreeing - 2, count - 1, p) / np.log(10)
    assert matching._log10_nfa(agreeing, count, area) == pytest.approx(expected, rel=1e-6)


def test_a_copied_patch_of_noise_raises_the_peak_at_its_shift() -> None:
    noise = torch.randn(256, 300, generator=torch.Generator().manual_seed(4))
    noise[150:210, 180:250] = noise[40:100, 60:130]
    peaks = similar_shifts(noise, 3, 6.0)
    assert [(abs(p.dx_px), abs(p.dy_px)) for p in peaks] == [(120, 110)]


def test_pure_noise_has_few_peaks() -> None:
    generator = torch.Generator().manual_seed(5)
    assert sum(len(similar_shifts(torch.randn(128, 128, generator=generator), 5, 6.0)) for _ in range(100)) == 0
