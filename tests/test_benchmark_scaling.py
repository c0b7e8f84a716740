"""The simulation of many hosts against queueing theory's closed forms."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from benchmarks.queueing import Model, System, simulate
from benchmarks.scaling import HOSTS, STEPS_CPU, USE, step_cpu_s


def _mean_wait_mmk(rate: float, service_s: float, places: int) -> float:
    """Erlang's C formula: mean wait with exponential service times."""
    load = rate * service_s
    last = load**places / math.factorial(places) * places / (places - load)
    waiting = last / (sum(load**n / math.factorial(n) for n in range(places)) + last)
    return waiting * service_s / (places - load)


@pytest.mark.parametrize("places", [1, 4])
def test_exponential_times_wait_as_erlang_c_says(places: int) -> None:
    dice = random.Random(1)
    times = [dice.expovariate(1.0) for _ in range(20_000)]
    rate = 0.7 * places
    figures = simulate(System(times, places), rate, 60_000, seed=2)
    expected = _mean_wait_mmk(rate, statistics.fmean(times), places)
    assert statistics.fmean(figures.vision_waits) == pytest.approx(expected, rel=0.1)
    assert figures.vision_use == pytest.approx(0.7, rel=0.03)
    assert figures.throughput == pytest.approx(rate, rel=0.03)


def test_constant_times_wait_half_as_long_as_pollaczek_and_khinchine_say() -> None:
    figures = simulate(System([1.0], 1), 0.8, 60_000, seed=3)
    assert statistics.fmean(figures.vision_waits) == pytest.approx(0.8 / (2 * 0.2), rel=0.1)


def test_a_batch_that_is_as_slow_as_its_answers_are_many_shares_its_time() -> None:
    """M/M/1 with shared processor: the mean stay is service / (1 - use), as with a queue."""
    dice = random.Random(4)
    tokens = [dice.expovariate(1.0) for _ in range(20_000)]
    shared = Model(lambda answers: float(answers), tokens, places=10**9)
    figures = simulate(System([0.0], 1, model=shared), 0.6, 60_000, seed=5)
    assert statistics.fmean(figures.latencies) == pytest.approx(statistics.fmean(tokens) / 0.4, rel=0.1)


def test_answers_in_a_batch_cost_each_other_nothing_where_the_step_is_constant() -> None:
    model = Model(lambda answers: 0.01, [100.0], hosts=2, places=50)
    figures = simulate(System([0.5], 100, model=model), 10.0, 2_000, seed=6)
    assert figures.percentile(50) == pytest.approx(1.5)
    assert figures.percentile(99) == pytest.approx(1.5)


def test_more_than_the_places_can_take_is_the_rate_of_the_places() -> None:
    figures = simulate(System([0.5], 4), 80.0, 4_000, seed=7)
    assert figures.throughput == pytest.approx(8.0, rel=0.01)
    assert figures.vision_use == pytest.approx(1.0, rel=0.01)


def test_the_plan_of_each_host_is_what_the_simulation_can_do() -> None:
    times = [0.5, 1.0, 1.5]
    for host in HOSTS:
        rate = USE * host.rate(times) * 10
        assert simulate(host.times(10, times, rate), rate, 4_000).throughput == pytest.approx(rate, rel=0.1)


def test_the_step_between_measured_numbers_of_answers_is_between_their_steps() -> None:
    assert step_cpu_s(8) == STEPS_CPU[8]
    assert STEPS_CPU[8] < step_cpu_s(20) < STEPS_CPU[32]
