"""Binomial tails far below the smallest double, for numbers of false alarms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaln

_SAFE = 1e-250


def log10_binomial_tail(
    successes: npt.ArrayLike, trials: npt.ArrayLike, probability: npt.ArrayLike
) -> npt.NDArray[np.float64]:
    """log10 P(Bin(n, p) >= k), element by element; for fractional k and n by the incomplete beta function.

    Where that would underflow, the tail is summed from its first term: the ratio of successive terms falls with k, so
    sum_{i>=k} pmf(i) <= pmf(k) / (1 - r) with r = (n-k)/(k+1) p/(1-p), and that upper bound (never optimistic) is
    within a factor 1 + O(1/k) where it is used.

    Args:
        successes: k; k <= 0 gives 0 (certain), k > n gives -inf.
        trials: n >= 0, broadcast with k.
        probability: p in (0, 1), broadcast with k.

    Returns:
        float64 of the broadcast shape, <= 0.
    """
    k, n, p = np.broadcast_arrays(*(np.asarray(a, dtype=np.float64) for a in (successes, trials, probability)))
    inside = (k > 0) & (k <= n)
    kk, nn = np.where(inside, k, 1.0), np.where(inside, n, 1.0)
    tail = betainc(kk, nn - kk + 1.0, p)
    log_pmf = gammaln(nn + 1) - gammaln(kk + 1) - gammaln(nn - kk + 1) + kk * np.log(p) + (nn - kk) * np.log1p(-p)
    ratio = np.minimum((nn - kk) / (kk + 1) * p / (1 - p), 0.999)
    far = (log_pmf - np.log1p(-ratio)) / np.log(10.0)
    near = np.log10(np.maximum(tail, _SAFE))
    value = np.minimum(np.where(tail > _SAFE, near, far), 0.0)
    return np.where(k <= 0, 0.0, np.where(k > n, -np.inf, value))
