"""The start of a soak: the services under mixed load for a minute, and the test of trends that judges it."""

from __future__ import annotations

import math

import pytest

from benchmarks.soak import SETTINGS, soak, table
from benchmarks.trend import trend
from tests.faults.stack import Plan

MOMENTS = [float(second) for second in range(200)]


def noise(moment: float) -> float:
    return 3.0 * math.sin(moment * 12.9898) + math.cos(moment * 78.233)


@pytest.mark.soak
def test_a_minute_of_mixed_load_leaves_memory_descriptors_threads_and_children_as_they_were() -> None:
    outcome = soak(60.0, Plan(SETTINGS, map_bytes=20_000), clients=3, pause_s=0.3)
    print(table(outcome))
    assert not [fault for fault in outcome.faults if "resident" not in fault], table(outcome)
    grown = {name: seen.trends()["resident MiB"] for name, seen in outcome.samples.items()}
    assert all(found.growth < 40 for found in grown.values()), "pools fill in the first minute; no more than that"
    assert sum(outcome.done.values()) > 50


def test_a_leak_under_noise_is_a_leak() -> None:
    found = trend(MOMENTS, [100 + 0.05 * moment + noise(moment) for moment in MOMENTS])
    assert found.growth == pytest.approx(10, abs=2)
    assert found.is_leak(3.0)


@pytest.mark.parametrize(
    "values",
    [
        [5.0] * 200,
        [100 + noise(moment) for moment in MOMENTS],
        [100 + moment % 40 for moment in MOMENTS],
        [100 - 0.05 * moment + noise(moment) for moment in MOMENTS],
    ],
    ids=["constant", "noise", "sawtooth", "falling"],
)
def test_what_does_not_grow_is_no_leak(values: list[float]) -> None:
    assert not trend(MOMENTS, values).is_leak(1.0)


def test_a_growth_that_is_allowed_is_no_leak() -> None:
    found = trend(MOMENTS, [100 + 0.01 * moment for moment in MOMENTS])
    assert found.z > 3
    assert not found.is_leak(3.0)


def test_too_few_samples_say_nothing() -> None:
    with pytest.raises(ValueError, match="too few"):
        trend([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
