"""From observations to weights of evidence: the calibration file and what it says of one observation."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from serving.errors import MaifsError, Reason
from vision_service.domain import Finding, Observation, Outcome, Weight

DEFAULT_FILE = Path(__file__).with_name("calibration.json")
"""The calibration that ships with the project."""

NOTHING_FOUND_FLOOR = -0.3
"""Least log10 LR of a fitted test: not finding a trace says little, because most edits leave none of that kind."""

UNDETECTED_CEILING = 0.3
"""Largest log10 LR of an observation that a test itself does not count as a detection, where the test is one that does
detect: between silence and detection few images were seen, and a logistic is steepest there."""

_LN10 = math.log(10.0)
_NO_WEIGHTS = (Weight(), Weight())


Feature = Literal["score", "log", "detected"]
FEATURES: tuple[Feature, ...] = get_args(Feature)


@dataclass(frozen=True)
class Curve:
    """log10 LR = (intercept + slope * feature) / ln 10, limited to [max(-cap, floor), cap].

    Two-parameter logistic calibration (Platt 1999; Brümmer and du Preez 2006) for balanced classes, limited by the
    number of calibration images as ELUB does (Vergeer et al. 2016).
    """

    slope: float
    """Natural log odds per unit of the feature, >= 0."""
    intercept: float
    """Natural log odds where the feature is 0."""
    cap: float
    """Largest |log10 LR|, at most log10(n + 1) for n images of the smaller class."""
    n_target: int = 0
    """Images of the hypothesis on which it was fitted."""
    n_authentic: int = 0
    """Authentic images on which it was fitted."""
    floor: float = NOTHING_FOUND_FLOOR
    """Least log10 LR; below `NOTHING_FOUND_FLOOR` only where low scores are a finding (a camera's own trace), 0 where
    they are none at all."""

    feature: Feature = "score"
    detection_log10_lr: float = 0.0
    """log10 ratio of the rates at which the test detects its trace in both classes: the least weight of a detection."""

    def weight(self, score: float, *, detected: bool) -> Weight:
        """The weight of one observation; zero for a score that is not finite."""
        if not math.isfinite(score):
            return Weight()
        log10_lr = (self.intercept + self.slope * feature_value(self.feature, score, detected=detected)) / _LN10
        if detected:
            log10_lr = max(log10_lr, self.detection_log10_lr)
        elif self.detection_log10_lr > 0:
            log10_lr = min(log10_lr, UNDETECTED_CEILING)
        return Weight(min(max(log10_lr, -self.cap, self.floor), self.cap), self.cap)


def feature_value(feature: Feature, score: float, *, detected: bool) -> float:
    """What a curve is a function of: the score, its signed log(1 + |score|), or whether the test detected its trace."""
    if feature == "detected":
        return float(detected)
    return math.copysign(math.log1p(abs(score)), score) if feature == "log" else score


@dataclass(frozen=True)
class TestCalibration:
    """Curves of one test; a hypothesis without a curve gets no weight."""

    manipulated: Mapping[str, Curve] = field(default_factory=dict)
    """By stratum; "*" is the pooled curve."""
    ai_generated: Mapping[str, Curve] = field(default_factory=dict)

    __test__ = False  # not a pytest class


@dataclass(frozen=True)
class Calibration:
    """All curves, the policy for provenance, and the trace that each test reads."""

    id: str
    """Version and digest of the content, "0.1+sha256:1a2b3c4d"."""
    tests: Mapping[str, TestCalibration]
    policy: Mapping[str, tuple[Weight, Weight]]
    """Weights (manipulated, AI generated) set by documented policy, by explanation key. They go before curves."""
    groups: Mapping[str, str]
    """Physical trace by test id; tests of one trace are not independent."""

    @classmethod
    def load(cls, path: Path | None = None) -> Calibration:
        """Reads a calibration file; the packaged one when no path is given.

        Raises:
            MaifsError: INVALID_CONFIG when the file is missing, is not JSON or has a fault, with what and where.
        """
        path = path or DEFAULT_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _fault(path, str(error)) from error
        try:
            return cls.from_document(document)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise _fault(path, detail) from error

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Calibration:
        """Builds a calibration from the parsed content of a file.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: when the content has a fault.
        """
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]
        tests = {
            test_id: TestCalibration(
                _curves(f"tests.{test_id}.manipulated", entry.get("manipulated", {})),
                _curves(f"tests.{test_id}.ai_generated", entry.get("ai_generated", {})),
            )
            for test_id, entry in document["tests"].items()
        }
        policy = {key: _policy(f"policy.{key}", entry) for key, entry in document["policy"].items()}
        groups = {str(test_id): str(group) for test_id, group in document["groups"].items()}
        return cls(f"{document['version']}+sha256:{digest}", tests, policy, groups)

    def weights(self, test_id: str, observation: Observation, stratum: str) -> tuple[Weight, Weight]:
        """Weights (manipulated, AI generated) of one observation.

        Zero for a test that did not run, and for one that has neither a curve nor a policy. A test set by policy that
        found its trace (`detected`) needs the policy's entry for its explanation key; without one it weighs nothing.
        """
        if observation.outcome is not Outcome.TESTED:
            return _NO_WEIGHTS
        if observation.explanation_key in self.policy:
            return self.policy[observation.explanation_key]
        entry = self.tests.get(test_id)
        if entry is None:
            return _NO_WEIGHTS
        return (
            _weight(entry.manipulated, stratum, observation),
            _weight(entry.ai_generated, stratum, observation),
        )

    def combine(self, findings: Iterable[Finding]) -> tuple[Weight, Weight]:
        """Weights (manipulated, AI generated) of several findings together: see `combine_correlated`; traces add up."""
        by_trace: dict[str, list[Finding]] = {}
        for finding in findings:
            if finding.observation.outcome is Outcome.TESTED:
                by_trace.setdefault(self.groups.get(finding.id, finding.id), []).append(finding)
        return (
            _sum(combine_correlated([f.manipulated for f in group]) for group in by_trace.values()),
            _sum(combine_correlated([f.ai_generated for f in group]) for group in by_trace.values()),
        )


def combine_correlated(weights: list[Weight]) -> Weight:
    """One weight for tests that read the same trace: the largest when any is positive, else the mean.

    Adding them would count one trace several times. Monotone in each weight.
    """
    weights = [weight for weight in weights if weight.cap > 0]
    if not weights:
        return Weight()
    cap = max(weight.cap for weight in weights)
    strongest = max(weight.log10_lr for weight in weights)
    if strongest > 0:
        return Weight(strongest, cap)
    return Weight(sum(weight.log10_lr for weight in weights) / len(weights), cap)


def _sum(weights: Iterable[Weight]) -> Weight:
    listed = list(weights)
    return Weight(sum(weight.log10_lr for weight in listed), sum(weight.cap for weight in listed))


def _weight(curves: Mapping[str, Curve], stratum: str, observation: Observation) -> Weight:
    curve = curves.get(stratum, curves.get("*"))
    return curve.weight(observation.score, detected=observation.detected) if curve is not None else Weight()


def _curves(where: str, entry: Mapping[str, Any]) -> dict[str, Curve]:
    curves = {}
    for stratum, values in entry.items():
        place = f"{where}.{stratum}"
        feature = values.get("feature", "score")
        if feature not in FEATURES:
            raise ValueError(f"{place}.feature is {feature!r}; known: {', '.join(FEATURES)}")
        curve = Curve(
            slope=_finite(place, values, "slope"),
            intercept=_finite(place, values, "intercept"),
            cap=_finite(place, values, "cap"),
            n_target=int(values.get("n_target", 0)),
            n_authentic=int(values.get("n_authentic", 0)),
            floor=_finite(place, values, "floor") if "floor" in values else NOTHING_FOUND_FLOOR,
            feature=feature,
            detection_log10_lr=_finite(place, values, "detection_log10_lr") if "detection_log10_lr" in values else 0.0,
        )
        if curve.slope < 0:
            raise ValueError(
                f"{place}.slope is {curve.slope}; it must be >= 0 (more trace must never mean less weight)"
            )
        if curve.cap < 0:
            raise ValueError(f"{place}.cap is {curve.cap}; it must be >= 0")
        if curve.floor > 0:
            raise ValueError(f"{place}.floor is {curve.floor}; it must be <= 0")
        curves[stratum] = curve
    return curves


def _policy(where: str, entry: Mapping[str, Any]) -> tuple[Weight, Weight]:
    manipulated = _finite(where, entry, "manipulated")
    ai_generated = _finite(where, entry, "ai_generated")
    return Weight(manipulated, abs(manipulated)), Weight(ai_generated, abs(ai_generated))


def _finite(where: str, values: Mapping[str, Any], name: str) -> float:
    if name not in values:
        raise ValueError(f"{where}.{name} is missing")
    value = values[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}.{name} is {value!r}; it must be a finite number")
    return float(value)


def _fault(path: Path, detail: str) -> MaifsError:
    return MaifsError(
        Reason.INVALID_CONFIG,
        f"The calibration file {path} cannot be used: {detail}.",
        "Make one with `python -m vision_service.calibrate`, or leave the setting out to use the packaged one.",
    )
