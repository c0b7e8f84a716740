"""Regions whose coefficients were quantised once in a picture quantised twice, or twice in one quantised once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.domain import MAX_REGIONS, HeatMap, Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.jpeg import JpegData, standard_table
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.double_jpeg_model import (
    LARGEST_VALUE,
    Comb,
    fit_comb,
    log_likelihood_ratio,
    magnitudes,
)
from vision_service.tools.frequency.shared import clipped_blocks, once_per_picture

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

FloatMap = npt.NDArray[np.float32]

_ID = "frequency.double_jpeg"
_LEAST_BLOCKS = 256
FREQUENCIES = (
    (0, 1),
    (1, 0),
    (2, 0),
    (1, 1),
    (0, 2),
    (0, 3),
    (1, 2),
    (2, 1),
    (3, 0),
    (4, 0),
    (3, 1),
    (2, 2),
    (1, 3),
    (0, 4),
)
"""The first 14 AC frequencies of the zig-zag order as (vertical, horizontal). The DC has no smooth histogram."""
_LEAST_ALPHA = 0.1
"""Bianchi's gate is 0.25 for the whole picture; a region is tested by itself here, so that less is needed."""
_LEAST_GAIN = 12.0
"""Natural log units, for 63 candidate steps at each of 14 frequencies."""
_LEAST_FREQUENCIES = 4
"""Two to find a region with, two that did not take part in finding it."""
_EVIDENCE_CAP = 2.3
"""Most natural log units that one coefficient may give: one in ten coefficients may be an outlier."""
_BLUR_BLOCKS = (1.5, 3.0)
"""Standard deviations of the smoothing in which regions are sought."""
_LEAST_REGION_BLOCKS = 16
_GROUPS_PER_MAP = 4
_DETECT_LOG10_NFA = -6.0
"""Stricter than the usual -3 because neighbouring blocks are not independent."""
_SCORE_CAP = 30.0


@dataclass(frozen=True, eq=False)
class Trace:
    """Double compression at one frequency, with the coefficients that show it."""

    vertical: int
    horizontal: int
    comb: Comb
    magnitudes: npt.NDArray[np.uint8]
    """|x| per block, shape (block rows, block columns); 0 in clipped blocks."""

    @property
    def evidence(self) -> FloatMap:
        """Log-likelihood ratio per block, above 0 where quantised twice."""
        table = np.zeros(LARGEST_VALUE + 2, dtype=np.float32)
        table[1 : len(self.comb.ratio) + 1] = np.clip(self.comb.log_mixture, -_EVIDENCE_CAP, _EVIDENCE_CAP)
        return table[self.magnitudes]


@dataclass(frozen=True, eq=False)
class Cluster:
    """A connected group of blocks that differs from the picture's mixture."""

    log10_nfa: float
    twice: bool
    """True: quantised twice among blocks quantised once."""
    mask: npt.NDArray[np.bool_]
    """Over all whole blocks."""


@once_per_picture
def double_jpeg(substrate: Substrate) -> tuple[Trace, ...] | None:
    """Frequencies with a trace, strongest first; None when the file is no readable JPEG or has under 256 blocks."""
    jpeg = substrate.jpeg
    rows, columns = substrate.height_px // BLOCK, substrate.width_px // BLOCK
    if jpeg is None or rows * columns < _LEAST_BLOCKS:
        return None
    usable = ~clipped_blocks(substrate)
    traces = [t for v, u in FREQUENCIES if (t := _trace(jpeg, v, u, usable)) is not None]
    return tuple(sorted(traces, key=lambda trace: -trace.comb.gain))


def _trace(jpeg: JpegData, v: int, u: int, usable: npt.NDArray[np.bool_]) -> Trace | None:
    rows, columns = usable.shape
    sizes = magnitudes(jpeg.luma[:rows, :columns, v, u])
    sizes *= usable  # 0 tells nothing
    counts = np.bincount(sizes.ravel(), minlength=LARGEST_VALUE + 2).astype(np.float64)
    comb = fit_comb(int(jpeg.tables[0][v, u]), counts)
    if comb is None or comb.alpha < _LEAST_ALPHA or comb.gain < _LEAST_GAIN:
        return None
    return Trace(v, u, comb, sizes)


def evidence_map(traces: Sequence[Trace]) -> FloatMap:
    """Sum of the evidence of at least one frequency, shape (block rows, block columns); above 0 = quantised twice."""
    total = np.zeros(traces[0].magnitudes.shape, dtype=np.float32)
    for trace in traces:
        total += trace.evidence
    return total


def find_clusters(traces: Sequence[Trace]) -> list[Cluster]:
    """Connected groups of blocks that do not follow the picture's mixture, strongest first, none overlapping.

    Groups are sought on one half of the frequencies and judged on the other, then the other way round. Frequencies
    that did not choose a group have, under H0 (every block follows the mixture), a likelihood ratio of expectation 1
    for "quantised once" against the mixture; so by Markov's inequality NFA = (groups judged) / ratio. The strongest
    frequency of each group is left out, so that no single one can raise an alarm.
    """
    if len(traces) < _LEAST_FREQUENCIES:
        return []
    halves = [[t for i, t in enumerate(traces) if i % 4 in side] for side in ((0, 3), (1, 2))]
    groups: list[tuple[npt.NDArray[np.bool_], bool]] = []
    ratios: list[npt.NDArray[np.float64]] = []
    for seek, judge in (halves, halves[::-1]):
        for twice in (False, True):
            masks = _proposals(evidence_map(seek), twice=twice)
            if masks:
                groups += [(mask, twice) for mask in masks]
                ratios.append(_judge(judge, masks, twice=twice))
    if not groups:
        return []
    nfa = np.log10(len(groups)) - np.concatenate(ratios) / np.log(10.0)
    kept: list[Cluster] = []
    taken = np.zeros_like(groups[0][0])
    for index in np.argsort(nfa):
        mask, twice = groups[index]
        if nfa[index] < 0 and not taken[mask].any():
            kept.append(Cluster(float(nfa[index]), twice, mask))
            taken |= mask
    return kept


def _judge(traces: Sequence[Trace], masks: Sequence[npt.NDArray[np.bool_]], *, twice: bool) -> npt.NDArray[np.float64]:
    """Natural log-likelihood ratio of each group without its strongest frequency, shape (groups,)."""
    ratios = np.empty((len(traces), len(masks)))
    for row, trace in enumerate(traces):
        size = len(trace.comb.ratio)
        counts = np.stack([np.bincount(trace.magnitudes[m], minlength=LARGEST_VALUE + 2) for m in masks])
        ratios[row] = log_likelihood_ratio(counts[:, 1 : size + 1].astype(np.float64), trace.comb, twice=twice)
    return np.asarray(ratios.sum(axis=0) - np.maximum(ratios.max(axis=0), 0.0))


def _proposals(sought: FloatMap, *, twice: bool) -> list[npt.NDArray[np.bool_]]:
    """Connected groups of blocks on one side of zero, the weightiest of each smoothing."""
    groups: list[npt.NDArray[np.bool_]] = []
    for sigma in _BLUR_BLOCKS:
        smooth = cv2.GaussianBlur(sought, (0, 0), sigma)
        side = smooth > 0 if twice else smooth < 0
        _, labels, stats, _ = cv2.connectedComponentsWithStats(side.astype(np.uint8), connectivity=4)
        weight = np.abs(np.bincount(labels.ravel(), weights=smooth.ravel(), minlength=len(stats)))
        area = stats[:, cv2.CC_STAT_AREA]
        weight[(area < _LEAST_REGION_BLOCKS) | (area > 0.5 * sought.size)] = 0
        weight[0] = 0
        groups += [labels == label for label in np.argsort(-weight)[:_GROUPS_PER_MAP] if weight[label] > 0]
    return groups


def _first_quality(traces: Sequence[Trace]) -> int:
    """Libjpeg quality whose table is nearest to the first steps found."""
    steps = np.array([t.comb.q1 for t in traces])
    places = tuple(np.array([(t.vertical, t.horizontal) for t in traces]).T)
    return 1 + int(np.argmin([np.abs(standard_table(q)[places] - steps).mean() for q in range(1, 101)]))


def _region(mask: npt.NDArray[np.bool_]) -> Region:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    top, left = int(rows[0]), int(columns[0])
    return Region(left * BLOCK, top * BLOCK, (int(columns[-1]) - left + 1) * BLOCK, (int(rows[-1]) - top + 1) * BLOCK)


def _heat_map(traces: Sequence[Trace], clusters: list[Cluster], substrate: Substrate) -> HeatMap:
    values = np.zeros((-(-substrate.height_px // BLOCK), -(-substrate.width_px // BLOCK)), dtype=np.uint8)
    rows, columns = traces[0].magnitudes.shape
    inside = values[:rows, :columns]
    if clusters:
        for cluster in clusters:
            inside[cluster.mask] = 255
        return HeatMap(values, BLOCK, "The cell's compression history differs from its surroundings'", significant=True)
    smooth = cv2.GaussianBlur(-evidence_map(traces), (0, 0), 3.0)
    inside[:] = np.rint(255 / (1 + np.exp(-np.clip(smooth, -30, 30)))).astype(np.uint8)
    return HeatMap(values, BLOCK, "The cell's coefficients look quantised once (bright) or twice (dark)")


def _measurements(traces: Sequence[Trace], jpeg: JpegData) -> tuple[Measurement, ...]:
    numbers = [Measurement("frequencies_with_trace", float(len(traces)), "count")]
    if traces:
        numbers += [
            Measurement("first_quality", float(_first_quality(traces)), "1"),
            Measurement("last_quality", float(jpeg.quality), "1"),
            Measurement("share_quantised_twice", float(np.median([t.comb.alpha for t in traces])), "1"),
            Measurement("log_likelihood_gain", float(sum(t.comb.gain for t in traces)), "1"),
        ]
    return tuple(numbers)


def run(substrate: Substrate) -> Observation:
    """Looks for a part with another compression history than the rest, on the same block grid.

    Saving an edited JPEG again leaves the untouched part quantised twice; what was painted, pasted or resized in has
    lost the first quantisation. A picture that is quantised twice all over, as web photos are, is no alarm: only the
    contrast is. Blind where the last quantisation is much coarser than the first, after resizing, and in flat parts.
    Linear in pixels.
    """
    jpeg = substrate.jpeg
    if jpeg is None:
        return not_applicable(
            "not_jpeg", f"the file is {substrate.container.format} without readable JPEG coefficients"
        )
    traces = double_jpeg(substrate)
    if traces is None:
        size = f"{substrate.width_px} x {substrate.height_px} px"
        return not_applicable("too_small", f"{size} hold fewer than {_LEAST_BLOCKS} whole blocks")
    clusters = find_clusters(traces)
    hits = [c for c in clusters if c.log10_nfa < _DETECT_LOG10_NFA]
    variant = "detected" if hits else "whole_picture" if len(traces) >= _LEAST_FREQUENCIES else "not_detected"
    nfa = clusters[0].log10_nfa if clusters else None
    return Observation(
        Outcome.TESTED,
        score=min(-nfa, _SCORE_CAP) if nfa is not None else 0.0,
        score_meaning="-log10 of the number of false alarms of the strongest part with another history, at most 30",
        log10_nfa=nfa,
        detected=bool(hits),
        explanation_key=f"{_ID}.{variant}",
        measurements=_measurements(traces, jpeg),
        regions=tuple(_region(c.mask) for c in hits[:MAX_REGIONS]),
        heat_map=_heat_map(traces, hits, substrate) if traces else None,
    )


TEST = Test(
    _ID,
    "Parts compressed once in a picture compressed twice, or the other way round, on one block grid",
    "Bianchi, De Rosa, Piva: Improved DCT coefficient analysis for forgery localization, ICASSP 2011",
    run,
)
