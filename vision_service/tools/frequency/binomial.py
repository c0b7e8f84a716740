"""Binomial tails far below the smallest double, for numbers of false alarms."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, gammaln

_LN10 = float(np.log(10.0))
_SAFE = 1e-250


def log10_binomial_tail(n: npt.ArrayLike, k: npt.ArrayLike, p: float) -> npt.NDArray[np.float64]:
    """log10 P(X >= k) for X ~ Binomial(n, p), element by element.

    Where the regularised incomplete beta function would underflow, the tail is summed from its first term: the ratio
    of successive terms falls with k, so sum_{i>=k} pmf(i) <= pmf(k) / (1 - r) with r = (n-k)/(k+1) p/(1-p), and that
    upper bound (never optimistic) is within a factor 1 + O(1/k) where it is used.

    Args:
        n: numbers of trials >= 0.
        k: numbers of successes; k <= 0 gives 0, k > n gives -inf.
        p: success probability, 0 < p < 1.

    Returns:
        float64 of the broadcast shape, <= 0.
    """
    n, k = np.broadcast_arrays(np.asarray(n, dtype=np.float64), np.asarray(k, dtype=np.float64))
    inside = (k > 0) & (k <= n)
    kk, nn = np.where(inside, k, 1.0), np.where(inside, n, 1.0)
    tail = betainc(kk, nn - kk + 1.0, p)
    log_pmf = gammaln(nn + 1) - gammaln(kk + 1) - gammaln(nn - kk + 1) + kk * np.log(p) + (nn - kk) * np.log1p(-p)
    ratio = np.minimum((nn - kk) / (kk + 1) * p / (1 - p), 0.999)
    far = (log_pmf - np.log1p(-ratio)) / _LN10
    near = np.log10(np.maximum(tail, _SAFE))
    value = np.minimum(np.where(tail > _SAFE, near, far), 0.0)
    return np.where(k <= 0, 0.0, np.where(k > n, -np.inf, value))
