"""Statistics of DCT coefficients that were quantised twice on one grid (Bianchi, De Rosa, Piva, ICASSP 2011).

A coefficient that was first a multiple of Q1 and then divided by Q2 falls on some integers too often and on others
never. With sigma the rounding of the pixels in between and a density that is flat over one step (their equation 8):

    n(x) = Q1 / Q2 sum_k [Phi((Q2 (x + 1/2) - k Q1) / sigma) - Phi((Q2 (x - 1/2) - k Q1) / sigma)]

The counts of |x| are a mixture s(x) (1 + alpha (n(x) - 1)). Their s(x) is the histogram of blocks off the grid; here it
is any smooth curve, log s a quartic in log |x| fitted together with the comb (Poisson regression): only what no smooth
curve explains counts as a trace, and a likelihood gain is divided by the misfit of the curve.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

FloatArray = npt.NDArray[np.float64]

LARGEST_VALUE = 80
"""Quantised magnitudes beyond take no part."""
STEPS = np.arange(2, 65)
"""Candidates for the first quantisation step."""

_SIGMA = 0.5
"""Grey levels: rounding of R, G, B and of luma after the first decompression, sqrt(0.447 / 12 + 2 / 12) = 0.45."""
_DEGREE = 4
_ROUNDS = 12
_LEAST_INFORMATION = 0.02
"""chi-square distance per coefficient of the comb from all smooth curves, below which Q1 leaves no trace."""
_LEAST_COUNT = 200
_KEPT_SHARE = 0.998
_ALPHAS = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98])


@dataclass(frozen=True, eq=False)
class Comb:
    """Double quantisation at one DCT frequency."""

    q1: int
    """First quantisation step, grey levels."""
    q2: int
    """Last quantisation step, from the file."""
    alpha: float
    """Share of nonzero coefficients that were quantised twice, 0.05..0.98."""
    gain: float
    """Natural log-likelihood gain over a smooth curve, divided by the misfit."""
    ratio: FloatArray
    """n(x) for |x| = 1..K, shape (K,), mean 1 over the coefficients."""

    @property
    def log_mixture(self) -> FloatArray:
        """log(1 + alpha (n - 1)) for |x| = 1..K: the evidence of one coefficient for two quantisations."""
        return np.asarray(np.log1p(self.alpha * (self.ratio - 1)))

    @property
    def log_twice(self) -> FloatArray:
        """Log n for |x| = 1..K, as if 5 % were outliers."""
        return np.asarray(np.log(0.05 + 0.95 * self.ratio))


def smooth_fit(counts: FloatArray, offset: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Poisson regression log mu(x) = offset(x) + quartic in log x, by iteratively reweighted least squares.

    Args:
        counts: shape (B, K), counts of |x| = 1..K.
        offset: shape (B, K) or broadcastable.

    Returns:
        Log-likelihood (B,) up to a constant of the counts, mean (B, K), and misfit (B,): Pearson chi-square per
        degree of freedom, at least 1.
    """
    offset = np.broadcast_to(offset, counts.shape)
    size = counts.shape[1]
    basis = _basis(size)
    mean = 0.5 * counts + 0.5 * counts.mean(axis=1, keepdims=True) + 0.05
    linear = np.log(mean)
    for _ in range(_ROUNDS):
        response = linear - offset + (counts - mean) / mean
        weighted = basis.T[None] * mean[:, None, :]
        normal = weighted @ basis + 1e-6 * np.eye(_DEGREE + 1)
        beta = np.linalg.solve(normal, (weighted @ response[:, :, None]))[:, :, 0]
        linear = np.clip(offset + beta @ basis.T, -12.0, 20.0)
        mean = np.exp(linear)
    likelihood = (counts * linear - mean).sum(axis=1)
    freedom = max(size - _DEGREE - 1, 1)
    misfit = ((counts - mean) ** 2 / np.maximum(mean, 0.5)).sum(axis=1) / freedom
    return likelihood, mean, np.maximum(misfit, 1.0)


def _basis(size: int) -> FloatArray:
    position = np.log(np.arange(1, size + 1)) / np.log(max(size, 2))
    return np.asarray(position[:, None] ** np.arange(_DEGREE + 1))


def comb_ratios(q2: int, size: int) -> FloatArray:
    """n(x) of a flat density for every candidate of STEPS, shape (63, size), |x| = 1..size."""
    edges = q2 * (np.arange(1, size + 2) - 0.5)
    q = STEPS[:, None].astype(np.float64)
    k = np.floor(edges / q)
    rest = edges - k * q
    passed = k + ndtr(rest / _SIGMA) + ndtr((rest - q) / _SIGMA) + ndtr((rest + q) / _SIGMA)
    return np.asarray(q / q2 * np.diff(passed, axis=1))


def magnitudes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """|x|, with everything beyond LARGEST_VALUE in one bin."""
    return np.asarray(np.minimum(np.abs(values.astype(np.int32)), LARGEST_VALUE + 1), dtype=np.uint8)


def fit_comb(q2: int, counts: FloatArray) -> Comb | None:
    """Finds the first step and the share alpha for one frequency.

    Args:
        q2: last quantisation step.
        counts: of |x| = 0..LARGEST_VALUE + 1.

    Returns:
        None when fewer than 200 coefficients or 6 values can tell anything, or no step explains anything.
    """
    counts = counts[1 : LARGEST_VALUE + 1]
    total = float(counts.sum())
    if total < _LEAST_COUNT:
        return None
    size = int(np.searchsorted(np.cumsum(counts), _KEPT_SHARE * total)) + 1
    if size < _DEGREE + 2:
        return None
    counts = counts[:size]
    likelihood, mean, misfit = smooth_fit(counts[None], np.zeros((1, size)))
    smooth = mean[0] / mean[0].sum()
    ratios = comb_ratios(q2, size)
    ratios = ratios / np.maximum((ratios * smooth).sum(axis=1, keepdims=True), 1e-9)
    best = _best_step(counts / counts.sum(), smooth, ratios, total)
    if best is None:
        return None
    ratio = ratios[best]
    offsets = np.log1p(_ALPHAS[:, None] * (ratio - 1))
    with_comb, _, misfits = smooth_fit(np.repeat(counts[None], len(_ALPHAS), axis=0), offsets)
    top = int(np.argmax(with_comb))
    gain = float(with_comb[top] - likelihood[0]) / float(min(misfits[top], misfit[0]))
    return Comb(int(STEPS[best]), q2, float(_ALPHAS[top]), gain, ratio)


def _best_step(observed: FloatArray, smooth: FloatArray, ratios: FloatArray, total: float) -> int | None:
    """Index of the step whose comb, freed of all that a smooth curve can follow, explains most (least squares)."""
    weight = 1.0 / np.maximum(smooth, 1e-12)
    basis = smooth[:, None] * _basis(len(smooth))
    difference = (ratios - 1) * smooth
    normal = (basis.T * weight) @ basis + 1e-12 * np.eye(_DEGREE + 1)
    difference = difference - (basis @ np.linalg.solve(normal, (basis.T * weight) @ difference.T)).T
    information = (weight * difference**2).sum(axis=1)
    agreement = (weight * difference * (observed - smooth)).sum(axis=1)
    alpha = np.clip(agreement / np.maximum(information, 1e-12), 0.0, 1.0)
    fall = np.where(information > _LEAST_INFORMATION, total * alpha * (2 * agreement - alpha * information), 0.0)
    best = int(np.argmax(fall))
    return best if fall[best] > 0 else None


def log_likelihood_ratio(counts: FloatArray, comb: Comb, *, twice: bool) -> FloatArray:
    """How much better groups of coefficients fit "quantised once" (or "twice") than the picture's mixture.

    The smooth curve is fitted anew for each group and hypothesis, so that a group's texture does not matter.

    Args:
        counts: of |x| = 1..K per group, shape (B, K).
        comb: the picture's.
        twice: which hypothesis.

    Returns:
        Natural log ratio (B,), divided by the misfit.
    """
    alternative = comb.log_twice if twice else np.zeros_like(comb.ratio)
    of_alternative, _, misfit = smooth_fit(counts, alternative[None])
    of_mixture, _, misfit_mixture = smooth_fit(counts, comb.log_mixture[None])
    return np.asarray((of_alternative - of_mixture) / np.minimum(misfit, misfit_mixture))
