"""Fitting of calibration curves: logistic, leave-one-source-out, only where it helps on sources that were left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from vision_service.calibration import NOTHING_FOUND_FLOOR, Curve, Feature
from vision_service.domain import Outcome
from vision_service.labelled import Record
from vision_service.laundering import FORGERIES
from vision_service.traces import AI_TESTS, CAMERA_TESTS, GROUPS, NO_CREDIT_TESTS, POLICY, POLICY_TESTS

FloatArray = npt.NDArray[np.float64]

MIN_IMAGES = 8
"""Fewest images of either class on which a curve is fitted."""

MIN_STRATUM_IMAGES = 40
"""Fewest images of either class for a curve of a stratum by itself."""

MAX_USEFUL_CLLR: Mapping[Feature, float] = {"detected": 1.0, "log": 0.995, "score": 0.995}
"""A test whose leave-one-source-out Cllr is not below this gets no weight: it would only add noise. Rates
of detection, which a test's own threshold keeps near zero on authentic pictures, need only help at all."""

FORGED_SHARE = 0.25
"""Weight of a forged copy of an authentic picture relative to a forgery from the wild."""

CAMERA_FLOOR = -1.0
"""Least log10 LR of a test that finds a camera's own trace: such traces survive many edits and can be faked."""

VERSION = "0.1"

_LN10 = math.log(10.0)


@dataclass(frozen=True, eq=False)
class Samples:
    """Copies of pictures on which one test ran, for one pair of hypotheses; arrays of shape (n,)."""

    scores: FloatArray
    detected: npt.NDArray[np.bool_]
    targets: npt.NDArray[np.bool_]
    """True: the hypothesis; False: authentic."""
    weights: FloatArray
    images: npt.NDArray[np.str_]
    sources: npt.NDArray[np.str_]
    strata: npt.NDArray[np.str_]
    records: npt.NDArray[np.int64]
    """Index of the record."""
    wild: npt.NDArray[np.bool_]
    """False for forged copies."""

    def where(self, keep: npt.NDArray[np.bool_]) -> Samples:
        """The samples at which `keep` is true."""
        return Samples(**{name: values[keep] for name, values in vars(self).items()})

    def feature(self, feature: Feature) -> FloatArray:
        """The feature's values, shape (n,)."""
        if feature == "detected":
            return self.detected.astype(np.float64)
        return np.copysign(np.log1p(np.abs(self.scores)), self.scores) if feature == "log" else self.scores


@dataclass(frozen=True, eq=False)
class Fit:
    """Curves of one test for one hypothesis, and what they would have said of sources that they had not seen."""

    curves: dict[str, Curve]
    """By stratum, "*" pooled; empty when the test does not help."""
    cllr: float
    """Leave-one-source-out, cost of log likelihood ratio in bits; 1 is no information."""
    log10_lr: dict[int, float]
    """Leave-one-source-out log10 LR by record index, for the records of either class."""
    cap: dict[int, float] = field(default_factory=dict)


def record_weights(records: Sequence[Record]) -> FloatArray:
    """Weight of each copy, shape (n,): a picture's copies share its weight, a source of n pictures counts as sqrt(n).

    Large sources still count most, but no single one decides; forged copies count `FORGED_SHARE`.
    """
    units = [(r.label, r.rung if r.rung in FORGERIES else r.source) for r in records]
    images = {(unit, r.image) for unit, r in zip(units, records, strict=True)}
    sizes = Counter(unit for unit, _ in images)
    copies = Counter((unit, r.image) for unit, r in zip(units, records, strict=True))
    return np.array(
        [
            (FORGED_SHARE if r.rung in FORGERIES else 1.0) / math.sqrt(sizes[unit]) / copies[unit, r.image]
            for unit, r in zip(units, records, strict=True)
        ]
    )


def samples_of(records: Sequence[Record], weights: FloatArray, test_id: str, target: str) -> Samples:
    """Copies on which a test ran, of the class `target` and of "authentic"."""
    rows = [
        (i, r, r.observations[test_id])
        for i, r in enumerate(records)
        if r.label in (target, "authentic") and r.observations.get(test_id, {}).get("outcome") == Outcome.TESTED.value
    ]
    return Samples(
        scores=np.array([entry["score"] for _, _, entry in rows], float),
        detected=np.array([entry["detected"] for _, _, entry in rows], bool),
        targets=np.array([r.label == target for _, r, _ in rows], bool),
        weights=weights[[i for i, _, _ in rows]] if rows else np.zeros(0),
        images=np.array([r.image for _, r, _ in rows], str),
        sources=np.array([r.source for _, r, _ in rows], str),
        strata=np.array([r.stratum for _, r, _ in rows], str),
        records=np.array([i for i, _, _ in rows], np.int64),
        wild=np.array([r.rung not in FORGERIES for _, r, _ in rows], bool),
    )


def fit_curve(samples: Samples, feature: Feature = "score", floor: float = NOTHING_FOUND_FLOOR) -> Curve | None:
    """Curve of one feature for balanced classes, slope >= 0; None when either class is too small.

    "detected": ratio of the rates in both classes, by Jeffreys' (k + 1/2) / (n + 1). Else a logistic with targets
    smoothed as by Platt (1999), (n + 1) / (n + 2), and a detection weighs at least its ratio of rates. Both keep few
    images from giving a steep curve.
    """
    n_target = len(set(samples.images[samples.targets].tolist()))
    n_authentic = len(set(samples.images[~samples.targets].tolist()))
    n = min(n_target, n_authentic)
    if n < MIN_IMAGES:
        return None
    found, silent = _rate_ratios(samples, n_target, n_authentic)
    if feature == "detected":
        slope, intercept = (found - silent, silent) if found > silent else (0.0, 0.0)
    else:
        weights = samples.weights.copy()
        for side in (samples.targets, ~samples.targets):
            weights[side] *= n / weights[side].sum()
        smoothed = np.where(samples.targets, (n + 1) / (n + 2), 1 / (n + 2))
        slope, intercept = _logistic(samples.feature(feature), smoothed, weights)
    detection = max(found, 0.0) / _LN10 if bool(samples.detected.any()) else 0.0
    return Curve(
        slope=round(slope, 6),
        intercept=round(intercept, 6),
        cap=round(math.log10(n + 1), 4),
        n_target=n_target,
        n_authentic=n_authentic,
        floor=floor,
        feature=feature,
        detection_log10_lr=round(detection, 4),
    )


def _rate_ratios(samples: Samples, n_target: int, n_authentic: int) -> tuple[float, float]:
    """Natural log ratio of the rates of detection in both classes, and of the rates of silence."""
    rates = []
    for side, n in ((samples.targets, n_target), (~samples.targets, n_authentic)):
        rates.append((float(np.average(samples.detected[side], weights=samples.weights[side])) * n + 0.5) / (n + 1))
    return math.log(rates[0] / rates[1]), math.log((1 - rates[0]) / (1 - rates[1]))


def _logistic(scores: FloatArray, targets: FloatArray, weights: FloatArray) -> tuple[float, float]:
    """Newton's method for the weighted logistic with two parameters; a negative slope becomes 0."""
    scale = max(float(np.abs(scores).max(initial=0.0)), 1e-9)
    x = scores / scale
    slope = intercept = 0.0
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(intercept + slope * x, -40, 40)))
        error, curvature = weights * (p - targets), weights * p * (1 - p) + 1e-12
        gradient = np.array([error.sum(), (error * x).sum() + 1e-3 * slope])
        cross = (curvature * x).sum()
        hessian = np.array([[curvature.sum(), cross], [cross, (curvature * x * x).sum() + 1e-3]])
        step = np.linalg.solve(hessian, gradient)
        step *= min(1.0, 4.0 / max(float(np.abs(step).max()), 1e-12))
        intercept, slope = intercept - float(step[0]), slope - float(step[1])
        if float(np.abs(step).max()) < 1e-8:
            break
    return (slope / scale, intercept) if slope > 0 else (0.0, 0.0)


def fit_curves(samples: Samples, feature: Feature = "score", floor: float = NOTHING_FOUND_FLOOR) -> dict[str, Curve]:
    """The pooled curve "*" and one for each stratum with enough images of both classes, forged not counted."""
    pooled = fit_curve(samples, feature, floor)
    if pooled is None or pooled.slope == 0:
        return {}
    curves = {"*": pooled}
    for stratum in sorted(set(samples.strata.tolist())):
        part = samples.where((samples.strata == stratum) & samples.wild)
        if min(len(set(part.images[side].tolist())) for side in (part.targets, ~part.targets)) >= MIN_STRATUM_IMAGES:
            curve = fit_curve(samples.where(samples.strata == stratum), feature, floor)
            if curve is not None:
                curves[stratum] = curve
    return curves


def fit_test(samples: Samples, floor: float = NOTHING_FOUND_FLOOR) -> Fit:
    """Curves of a test on the feature that serves best on sources that were left out; none when none serves."""
    features: tuple[Feature, ...] = ("detected", "log", "score")
    fits = {feature: _fit_feature(samples, feature, floor) for feature in features}
    useful = [fit for feature, fit in fits.items() if fit.curves and fit.cllr < MAX_USEFUL_CLLR[feature]]
    return min(useful, key=lambda fit: fit.cllr) if useful else Fit({}, min(fit.cllr for fit in fits.values()), {})


def _fit_feature(samples: Samples, feature: Feature, floor: float) -> Fit:
    log10_lr = np.zeros(len(samples.scores))
    caps = np.zeros(len(samples.scores))
    for source in sorted(set(samples.sources.tolist())):
        held = samples.sources == source
        curves = fit_curves(samples.where(~held), feature, floor)
        for i in np.flatnonzero(held):
            curve = curves.get(str(samples.strata[i]), curves.get("*"))
            if curve is not None:
                weight = curve.weight(float(samples.scores[i]), detected=bool(samples.detected[i]))
                log10_lr[i], caps[i] = weight.log10_lr, weight.cap
    records = [int(i) for i in samples.records]
    return Fit(
        fit_curves(samples, feature, floor),
        weighted_cllr(log10_lr, samples.targets, samples.weights),
        dict(zip(records, log10_lr.tolist(), strict=True)),
        dict(zip(records, caps.tolist(), strict=True)),
    )


def weighted_cllr(log10_lr: FloatArray, targets: npt.NDArray[np.bool_], weights: FloatArray) -> float:
    """Cost of log likelihood ratios (Brümmer and du Preez 2006) in bits; 1 when a class is missing."""
    if not targets.any() or targets.all():
        return 1.0
    target_cost = np.logaddexp(0, -log10_lr[targets] * _LN10) / math.log(2)
    other_cost = np.logaddexp(0, log10_lr[~targets] * _LN10) / math.log(2)
    return float(
        (np.average(target_cost, weights=weights[targets]) + np.average(other_cost, weights=weights[~targets])) / 2
    )


HYPOTHESES = ("manipulated", "ai_generated")


def _floor(test: str) -> float:
    """Least log10 LR that a low score of a test may have."""
    if test in CAMERA_TESTS:
        return CAMERA_FLOOR
    return 0.0 if test in NO_CREDIT_TESTS else NOTHING_FOUND_FLOOR


def fit_all(records: Sequence[Record]) -> tuple[dict[str, Any], dict[str, dict[str, Fit]]]:
    """Fits every test.

    Returns:
        The content of a calibration file, and the fits by test and hypothesis.
    """
    weights = record_weights(records)
    tests = sorted({test for record in records for test in record.observations})
    fits: dict[str, dict[str, Fit]] = {}
    for test in tests:
        if test in POLICY_TESTS:
            continue
        fits[test] = {h: fit_test(samples_of(records, weights, test, h), _floor(test)) for h in hypotheses_of(test)}
    document = {
        "version": VERSION,
        "made_from": _made_from(records),
        "tests": {
            test: {
                h: {s: vars(curve) for s, curve in fit.curves.items()} for h, fit in by_hypothesis.items() if fit.curves
            }
            for test, by_hypothesis in fits.items()
        },
        "loso_cllr": {test: {h: round(fit.cllr, 4) for h, fit in by.items()} for test, by in fits.items()},
        "policy": {key: {"manipulated": m, "ai_generated": a} for key, (m, a) in sorted(POLICY.items())},
        "groups": dict(GROUPS) | {test: GROUPS.get(test, test) for test in tests},
    }
    return document, fits


def hypotheses_of(test_id: str) -> tuple[str, ...]:
    """The hypotheses for which a test is fitted."""
    return HYPOTHESES if test_id in AI_TESTS else HYPOTHESES[:1]


def _made_from(records: Iterable[Record]) -> dict[str, Any]:
    listed = list(records)
    images = {(r.label, r.source, r.image) for r in listed if r.rung not in FORGERIES}
    labels = Counter(label for label, _, _ in images)
    return {
        "images": dict(sorted(labels.items())),
        "sources": sorted({source for _, source, _ in images}),
        "copies": sorted({r.rung for r in listed}),
    }


def out_of_fold_evidence(records: Sequence[Record], fits: dict[str, dict[str, Fit]]) -> list[dict[str, Any]]:
    """Evidence per record as fusion takes it, with weights that had not seen the record's source.

    Args:
        records: the records of `fits`.
        fits: from `fit_all`.
    """
    weights = record_weights(records)
    return [
        {
            "image": record.image,
            "source": record.source,
            "label": record.label,
            "rung": record.rung,
            "weight": float(weights[i]),
            "evidence": [
                _evidence(test, entry, fits.get(test, {}), i) for test, entry in sorted(record.observations.items())
            ],
        }
        for i, record in enumerate(records)
    ]


def _evidence(test: str, entry: dict[str, Any], fits: dict[str, Fit], record: int) -> dict[str, Any]:
    key = entry["explanation_key"]
    if key in POLICY and entry["outcome"] == Outcome.TESTED.value:
        manipulated, ai_generated = POLICY[key]
        caps = (abs(manipulated), abs(ai_generated))
    else:
        values = [fits[h].log10_lr.get(record, 0.0) if h in fits else 0.0 for h in HYPOTHESES]
        manipulated, ai_generated = values
        limits = [fits[h].cap.get(record, 0.0) if h in fits else 0.0 for h in HYPOTHESES]
        caps = (limits[0], limits[1])
    return {
        "finding_id": test,
        "tool": test.partition(".")[0],
        "outcome": entry["outcome"],
        "detected": entry["detected"],
        "log10_lr_manipulated": manipulated,
        "log10_lr_ai_generated": ai_generated,
        "cap_manipulated": caps[0],
        "cap_ai_generated": caps[1],
        "explanation_key": key,
    }
