"""The counting under the null hypothesis, against exact sums and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vision_service.tools.noise import acontrario


def exact_tail(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.3), (3, 10, 0.3), (10, 10, 0.3), (40, 60, 0.5), (7, 900, 0.0062)])
def test_binomial_tail_equals_the_exact_sum(k: int, n: int, p: float) -> None:
    assert float(acontrario.log10_binomial_tail(k, n, p)) == pytest.approx(math.log10(exact_tail(k, n, p)), abs=1e-9)


def test_binomial_tail_beyond_float_range_is_an_upper_bound() -> None:
    value = float(acontrario.log10_binomial_tail(900, 1000, 1e-3))
    exact = math.log10(math.comb(1000, 900)) + 900 * math.log10(1e-3) + 100 * math.log10(1 - 1e-3)
    assert exact <= value <= exact + 4


def test_binomial_tail_of_no_trials_is_certain() -> None:
    assert float(acontrario.log10_binomial_tail(0, 0, 0.5)) == 0.0


def test_a_solid_block_of_marks_is_found_with_its_box() -> None:
    marked = np.random.default_rng(1).random((40, 50)) < 0.01
    marked[10:16, 20:28] = True
    counted = np.ones_like(marked)
    best = acontrario.strongest_groups(marked, counted, 0.01, log10_tests=acontrario.log10_region_count(40, 50))[0]
    assert best.log10_nfa < -30
    assert best.box.x_px <= 20
    assert best.box.x_px + best.box.width_px >= 28
    assert best.size >= 48


def test_random_marks_give_fewer_false_alarms_than_stated() -> None:
    rng = np.random.default_rng(2)
    tests = acontrario.log10_region_count(30, 40)
    counted = np.ones((30, 40), dtype=bool)
    alarms = 0
    for _ in range(1000):
        groups = acontrario.strongest_groups(rng.random((30, 40)) < 0.05, counted, 0.05, log10_tests=tests)
        alarms += bool(groups) and groups[0].log10_nfa < -1
    assert alarms <= 100


def test_correlation_area_of_white_noise_is_small_and_of_patches_is_their_area() -> None:
    rng = np.random.default_rng(3)
    usable = np.ones((60, 60), dtype=bool)
    assert acontrario.correlation_area(rng.standard_normal((60, 60)), usable) < 3
    patches = np.kron(rng.standard_normal((15, 15)), np.ones((4, 4))).astype(np.float64)
    assert 10 < acontrario.correlation_area(patches, usable) < 24
