"""The counting under the null hypothesis, against simulation."""

from __future__ import annotations

import numpy as np

from vision_service.tools.noise import acontrario


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
