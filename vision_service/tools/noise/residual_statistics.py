"""noise.residual_statistics: a picture of two populations of fine residual patterns (after Splicebuster)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.noise.cooccurrence import BAND_PX, cell_histograms

FloatArray = npt.NDArray[np.float64]

WINDOW_CELLS = 8
"""Cells per side of a window: 128 px in pictures up to 2 MP."""
_FULL_PIXELS = 2_000_000
_MIN_SIDE_PX = 256
_COMPONENTS = 3
_ITERATIONS = 30
_RIDGE = 0.02  # share of the picture's covariance in that of each class: no class collapses on a few windows
_FLAT_SPREAD = 1e-3  # Hellinger units; less is one pattern everywhere


@dataclass(frozen=True, eq=False)
class TwoClasses:
    """A mixture of two Gaussians fitted to the windows."""

    log_ratio: FloatArray
    """ln of (weight x density) of the smaller class over that of the larger, per window, shape (windows,)."""
    gain: float
    """Mean log-likelihood gained over one Gaussian, nats per window; at least 0."""
    minority: float
    """Weight of the smaller class, 0..0.5."""
    separation: float
    """Distance of the two means over the root of the total variance."""


def window_features(histograms: FloatArray) -> FloatArray:
    """Square roots of the pattern frequencies of all windows of 8 x 8 cells, at a stride of one cell.

    Args:
        histograms: shape (rows, columns, 2, 25), rows and columns at least 8.

    Returns:
        Shape (rows - 7, columns - 7, 50); each half has unit norm.
    """
    table = np.zeros((histograms.shape[0] + 1, histograms.shape[1] + 1, *histograms.shape[2:]))
    table[1:, 1:] = histograms.cumsum(axis=0).cumsum(axis=1)
    w = WINDOW_CELLS
    sums = table[w:, w:] - table[:-w, w:] - table[w:, :-w] + table[:-w, :-w]
    sums = np.sqrt(np.maximum(sums, 0.0) / np.maximum(sums.sum(axis=3, keepdims=True), 1.0))
    return np.asarray(sums.reshape(*sums.shape[:2], -1), dtype=np.float64)


def principal_components(features: FloatArray) -> FloatArray:
    """The three components of largest variance, shape (windows, 3)."""
    centred = features - features.mean(axis=0)
    _, vectors = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ vectors[:, : -_COMPONENTS - 1 : -1], dtype=np.float64)


def two_classes(points: FloatArray) -> TwoClasses:
    """Expectation maximisation from a split at the longer tail of the first component; deterministic.

    Args:
        points: shape (windows, d), of zero mean.
    """
    total = points.T @ points / len(points)
    total += 1e-9 * np.trace(total) * np.eye(points.shape[1]) + 1e-15 * np.eye(points.shape[1])
    first = points[:, 0] * (1 if points[:, 0].mean() >= np.median(points[:, 0]) else -1)
    share = np.where(first > np.quantile(first, 0.8), 0.95, 0.05)
    for _ in range(_ITERATIONS):
        logs = np.stack([_log_density(points, weights, total) for weights in (1 - share, share)])
        share = 1 / (1 + np.exp(np.clip(logs[0] - logs[1], -50, 50)))
    gain = float(np.logaddexp(logs[0], logs[1]).mean() - _log_density(points, np.ones(len(points)), total).mean())
    ratio = logs[1] - logs[0]
    if share.mean() > 0.5:
        share, ratio = 1 - share, -ratio
    weight = max(float(share.sum()), 1e-9)
    means = (share @ points / weight) - ((1 - share) @ points / max(len(points) - weight, 1e-9))
    separation = float(np.linalg.norm(means) / np.sqrt(np.trace(total)))
    return TwoClasses(ratio, max(gain, 0.0), float(share.mean()), separation)


def _log_density(points: FloatArray, weights: FloatArray, total: FloatArray) -> FloatArray:
    """ln(weight x Gaussian density) without the constant common to all classes."""
    mass = float(weights.sum()) + 1e-9
    centred = points - weights @ points / mass
    covariance = (1 - _RIDGE) * ((weights[:, None] * centred).T @ centred) / mass + _RIDGE * total
    distance = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    return np.asarray(
        np.log(mass / len(points)) - 0.5 * np.linalg.slogdet(covariance)[1] - 0.5 * distance, dtype=np.float64
    )


def _run(substrate: Substrate) -> Observation:
    height, width = substrate.height_px, substrate.width_px
    cell = BAND_PX * -(-height * width // _FULL_PIXELS)
    if min(height, width) < max(_MIN_SIDE_PX, (WINDOW_CELLS + 4) * cell):
        return not_applicable("too_small", f"{width} x {height} px hold too few windows")
    features = window_features(cell_histograms(substrate.luma, cell))
    points = principal_components(features.reshape(-1, features.shape[2]))
    if float(points.std(axis=0).max()) < _FLAT_SPREAD:
        return not_applicable("no_texture", "the fine patterns are the same in all of the picture")
    fit = two_classes(points)
    return Observation(
        Outcome.TESTED,
        score=fit.gain,
        score_meaning="log-likelihood that two classes of windows gain over one, nats per window",
        explanation_key="noise.residual_statistics.not_detected",
        measurements=(
            Measurement("log_likelihood_gain", fit.gain, "nat"),
            Measurement("minority_share", fit.minority, "1"),
            Measurement("class_separation", fit.separation, "1"),
        ),
        heat_map=_heat_map(fit.log_ratio.reshape(features.shape[:2]), (height, width), cell),
    )


def _heat_map(log_ratio: FloatArray, size: tuple[int, int], cell: int) -> HeatMap:
    """Each cell shows the window centred on it; the border repeats the outermost windows."""
    shape = tuple(-(-side // cell) for side in size)
    rows, columns = (
        np.clip(np.arange(length) - WINDOW_CELLS // 2, 0, windows - 1)
        for length, windows in zip(shape, log_ratio.shape, strict=True)
    )
    belief = 255 / (1 + np.exp(-np.clip(log_ratio, -30, 30) / 2))
    values = np.rint(belief[rows[:, None], columns[None]]).astype(np.uint8)
    return HeatMap(
        values, cell, "Bright cells belong to the smaller of two classes of fine patterns, which content also makes."
    )


RESIDUAL_STATISTICS = Test(
    id="noise.residual_statistics",
    description="A map of two classes of fine residual patterns; content makes such classes too, so it detects nothing",
    source="after Cozzolino, Poggi, Verdoliva: Splicebuster, WIFS 2015",
    run=_run,
)
