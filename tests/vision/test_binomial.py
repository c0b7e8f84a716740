"""The binomial tail against exact sums, down to where no double reaches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom

from vision_service.tools.binomial import log10_binomial_tail


def exact_tail(k: int, n: int, p: float) -> float:
    return math.fsum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k, n + 1))


@pytest.mark.parametrize(("k", "n", "p"), [(0, 10, 0.3), (3, 10, 0.3), (10, 10, 0.3), (40, 60, 0.5), (7, 900, 0.0062)])
def test_equals_the_exact_sum(k: int, n: int, p: float) -> None:
    assert float(log10_binomial_tail(k, n, p)) == pytest.approx(math.log10(exact_tail(k, n, p)), abs=1e-9)


def test_agrees_with_scipy_element_by_element() -> None:
    n = np.array([10, 100, 1000, 5000, 64])
    k = np.array([3, 20, 40, 300, 0])
    assert np.allclose(log10_binomial_tail(k, n, 1 / 64), np.log10(binom.sf(k - 1, n, 1 / 64)), rtol=1e-9)


@pytest.mark.parametrize(("k", "n", "p"), [(2000, 4096, 1 / 64), (900, 1000, 1e-3), (3400, 4000, 0.5)])
def test_goes_on_below_the_smallest_double_and_stays_an_upper_bound(k: int, n: int, p: float) -> None:
    terms = binom.logpmf(np.arange(k, n + 1), n, p)
    exact = (terms[0] + np.log(np.exp(terms - terms[0]).sum())) / np.log(10)
    value = float(log10_binomial_tail(k, n, p))
    assert exact <= value + 1e-9
    assert value <= exact + 0.01
    assert exact < -250


def test_fractional_counts_lie_between_their_neighbours() -> None:
    tails = log10_binomial_tail(np.array([10, 10.25, 10.5, 10.75, 11]), 40, 0.1)
    assert (np.diff(tails) < 0).all()


def test_certain_and_impossible_counts() -> None:
    assert log10_binomial_tail(np.array([0, -1, 0, 5]), np.array([0, 4, 4, 4]), 0.5).tolist() == [0, 0, 0, -np.inf]
