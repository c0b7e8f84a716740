"""Figures of merit of detectors and of likelihood ratios."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, rankdata

FloatArray = npt.NDArray[np.float64]
_LN10 = math.log(10.0)


@dataclass(frozen=True)
class Rate:
    """A share with its 95 % Wilson score interval."""

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share; 0 when there is nothing to count."""
        return self.count / self.total if self.total else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson (1927) with z = 1.96; (0, 1) when there is nothing to count."""
        if not self.total:
            return 0.0, 1.0
        z, n, p = 1.959964, self.total, self.value
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.count}/{self.total} = {100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def clopper_pearson_upper(count: int, total: int, confidence: float = 0.95) -> float:
    """One-sided exact upper bound of a rate; 1 when there is nothing to count."""
    if total == 0 or count >= total:
        return 1.0
    return float(beta.ppf(confidence, count + 1, total - count))


def auc(targets: FloatArray, others: FloatArray) -> float:
    """Area under the ROC curve with ties counted half (Mann-Whitney); NaN when a class is missing."""
    if not len(targets) or not len(others):
        return math.nan
    ranks = rankdata(np.concatenate([targets, others]))
    n = len(targets)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * len(others)))


def tpr_at_fpr(targets: FloatArray, others: FloatArray, fpr: float) -> float:
    """Largest share of targets above a threshold that at most a share `fpr` of the others exceeds; NaN without both."""
    if not len(targets) or not len(others):
        return math.nan
    allowed = math.floor(fpr * len(others) + 1e-9)
    threshold = np.sort(others)[::-1][allowed] if allowed < len(others) else -math.inf
    return float((targets > threshold).mean())


def cllr(targets: FloatArray, others: FloatArray) -> float:
    """Cost of log10 likelihood ratios in bits (Brümmer and du Preez 2006); NaN when a class is missing."""
    if not len(targets) or not len(others):
        return math.nan
    cost_targets = np.logaddexp(0, -targets * _LN10).mean()
    cost_others = np.logaddexp(0, others * _LN10).mean()
    return float((cost_targets + cost_others) / (2 * math.log(2)))


def cllr_min(targets: FloatArray, others: FloatArray) -> float:
    """Cllr after the best monotone recalibration (pool adjacent violators): what discrimination alone costs."""
    if not len(targets) or not len(others):
        return math.nan
    values = np.concatenate([targets, others])
    labels = np.concatenate([np.ones(len(targets)), np.zeros(len(others))])
    weights = np.concatenate([np.full(len(targets), 1 / len(targets)), np.full(len(others), 1 / len(others))])
    _, index = np.unique(values, return_inverse=True)
    total: FloatArray = np.bincount(index, weights).astype(np.float64)
    positive = np.bincount(index, weights * labels)
    p = np.clip(isotonic(positive / total, total)[index], 1e-12, 1 - 1e-12)
    log10_lr = np.log10(p / (1 - p))
    return cllr(log10_lr[: len(targets)], log10_lr[len(targets) :])


def isotonic(values: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted least-squares non-decreasing fit (pool adjacent violators); shape as `values`."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        block = (value, weight, 1)
        while blocks and blocks[-1][0] >= block[0]:
            last = blocks.pop()
            mass = last[1] + block[1]
            block = ((last[0] * last[1] + block[0] * block[1]) / mass, mass, last[2] + block[2])
        blocks.append(block)
    return np.concatenate([np.full(count, value) for value, _, count in blocks]) if blocks else np.zeros(0)


def ece(probabilities: FloatArray, correct: npt.NDArray[np.bool_], bins: int = 10) -> float:
    """Expected calibration error of stated probabilities, equal-width bins; NaN when empty."""
    if not len(probabilities):
        return math.nan
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [
        abs(probabilities[index == b].mean() - correct[index == b].mean()) * float((index == b).mean())
        for b in range(bins)
        if (index == b).any()
    ]
    return float(sum(gaps))


def macro_f1(labels: Sequence[str], verdicts: Sequence[str], classes: Sequence[str]) -> float:
    """Mean F1 over the classes that occur in `labels`; a verdict outside `classes` ("uncertain") is a miss."""
    scores = []
    for name in classes:
        if name not in labels:
            continue
        pairs = list(zip(labels, verdicts, strict=True))
        hits = sum(label == verdict == name for label, verdict in pairs)
        claimed = sum(verdict == name for verdict in verdicts)
        present = sum(label == name for label in labels)
        scores.append(2 * hits / (claimed + present))
    return sum(scores) / len(scores) if scores else math.nan
