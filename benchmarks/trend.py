"""Whether a quantity that is sampled over time grows: a test that asks for no model of it.

Samples that follow each other are alike, so they are first gathered into blocks of equal time, of which the median
counts. Mann-Kendall (Mann, Econometrica 13, 1945; Kendall, Rank Correlation Methods, 1975) says whether the medians
rise more often than chance has it; Theil-Sen (Sen, JASA 63, 1968) says how fast.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = 20
SIGNIFICANT_Z = 2.58
"""One-sided p = 0.005."""


@dataclass(frozen=True)
class Trend:
    """How a quantity developed."""

    first: float
    last: float
    """Medians of the first and last block."""
    slope: float
    """Units per second (Theil-Sen)."""
    growth: float
    """Units that the slope adds over the whole time."""
    z: float
    """Mann-Kendall's; above 0: it rises."""

    def is_leak(self, allowed: float) -> bool:
        """Whether it rises beyond chance, and by more than is allowed over the time."""
        return self.z > SIGNIFICANT_Z and self.growth > allowed


def trend(times_s: Sequence[float], values: Sequence[float], blocks: int = BLOCKS) -> Trend:
    """The trend of samples.

    Args:
        times_s: moments, rising.
        values: one for each moment.
        blocks: of equal time; at least 4 of them must hold a sample.
    """
    points = _medians(times_s, values, blocks)
    if len(points) < 4:
        raise ValueError(f"{len(points)} blocks with samples are too few to speak of a trend")
    pairs = list(itertools.combinations(points, 2))
    slope = statistics.median((v - u) / (t - s) for (s, u), (t, v) in pairs)
    rises = sum((v > u) - (v < u) for (_, u), (_, v) in pairs)
    first, last = points[0], points[-1]
    return Trend(first[1], last[1], slope, slope * (last[0] - first[0]), _z(rises, [value for _, value in points]))


def _medians(times_s: Sequence[float], values: Sequence[float], blocks: int) -> list[tuple[float, float]]:
    width = (times_s[-1] - times_s[0]) / blocks or 1.0
    gathered: dict[int, list[tuple[float, float]]] = {}
    for moment, value in zip(times_s, values, strict=True):
        gathered.setdefault(min(int((moment - times_s[0]) / width), blocks - 1), []).append((moment, value))
    return [(statistics.fmean(t for t, _ in part), statistics.median(v for _, v in part)) for part in gathered.values()]


def _z(rises: int, values: Sequence[float]) -> float:
    """Kendall's S over its standard deviation, corrected for ties and continuity."""
    count = len(values)
    ties = sum(tied * (tied - 1) * (2 * tied + 5) for tied in Counter(values).values())
    variance = (count * (count - 1) * (2 * count + 5) - ties) / 18
    if variance <= 0 or rises == 0:
        return 0.0
    return (rises - math.copysign(1, rises)) / math.sqrt(variance)
