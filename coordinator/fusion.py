"""Fusion of all tools' findings into one verdict: weights by trace, a stated prior, the least expected cost."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from serving.errors import MaifsError, Reason

DEFAULT_FILE = Path(__file__).with_name("fusion.json")
"""The fitted weights and the policy that ship with the project."""

Verdict = Literal["authentic", "manipulated", "ai_generated", "uncertain"]
Outcome = Literal["tested", "not_applicable", "failed"]


@dataclass(frozen=True)
class Evidence:
    """What fusion needs of one finding. Weights are log10 likelihood ratios against "authentic"."""

    finding_id: str
    tool: str
    outcome: Outcome
    detected: bool
    log10_lr_manipulated: float
    log10_lr_ai_generated: float
    cap_manipulated: float
    cap_ai_generated: float
    explanation_key: str


@dataclass(frozen=True)
class Posterior:
    """Probabilities of the three hypotheses; they add up to 1."""

    authentic: float
    manipulated: float
    ai_generated: float


@dataclass(frozen=True)
class Contribution:
    """One finding's part in the combined log10 likelihood ratios."""

    finding_id: str
    log10_lr_manipulated: float
    log10_lr_ai_generated: float


@dataclass(frozen=True)
class FusionResult:
    """The verdict and how it came about."""

    verdict: Verdict
    probability: float
    """Posterior of the verdict's hypothesis; the largest of the three for "uncertain"."""
    posterior: Posterior
    prior: Posterior
    log10_lr_manipulated: float
    log10_lr_ai_generated: float
    contributions: tuple[Contribution, ...]
    """Findings that moved the result, strongest first."""
    calibration_id: str
    rule: str
    """What decided: "provenance.<rule>", "trace.<group>", "trace.none_found", "evidence.too_weak",
    "evidence.undetected" or "tests.too_few"."""


@dataclass(frozen=True)
class Costs:
    """Cost of each kind of error in units of the cost of saying "uncertain"."""

    accuse_authentic: float
    """Calling an authentic photo manipulated or AI generated."""
    wrong_kind: float
    """Calling a manipulated picture AI generated or the other way round."""
    clear_forged: float
    """Calling a manipulated or AI generated picture authentic."""


OpinionSource = Literal["second_look", "picture_reading"]
OPINION_PREFIX = "opinion."
"""Before the source's name where a contribution names the finding that it comes from."""


@dataclass(frozen=True)
class Opinion:
    """What a language model thinks of a picture."""

    source: OpinionSource
    verdict: Verdict
    confidence: float
    """As the model states it, 0..1."""


@dataclass(frozen=True)
class OpinionWeight:
    """How far an opinion moves the verdict."""

    weight: float = 0.0
    """Factor 0..1 on the log10 odds of the stated confidence; 0: opinions of this source count for nothing."""
    cap: float = 0.0
    """Most that one opinion moves a log10 likelihood ratio."""
    provenance: str = "not measured"
    """What the weight was measured on."""


@dataclass(frozen=True)
class Group:
    """Tests that read the same physical trace and the part of their weight that counts beside the other traces."""

    name: str
    weight_manipulated: float
    weight_ai_generated: float


@dataclass(frozen=True)
class FusionModel:
    """Fitted group weights and the policy of verdicts."""

    id: str
    """Version and digest of the content, "0.1+sha256:1a2b3c4d"."""
    prior: Posterior
    costs: Costs
    groups: Mapping[str, Group]
    """By finding id."""
    other_weight: float
    """Weight of a finding that was unknown when the groups were fitted, 0..1; it forms a group of its own."""
    min_traces: int
    """Fewest traces with a test that ran, provenance apart, before "authentic" may be said without a credential."""
    clear_log10_lr_manipulated: float
    """Combined log10 LR (manipulated) at or below which "authentic" may be said."""
    clear_log10_lr_ai_generated: float
    rules: Mapping[str, str]
    """Rule names by the beginning of an explanation key; the longest match counts."""
    opinions: Mapping[str, OpinionWeight] = field(default_factory=dict)
    """By source; a source that is not named counts for nothing."""

    @classmethod
    def load(cls, path: Path | None = None, prior: Posterior | None = None) -> FusionModel:
        """Reads a fusion file; the packaged one when no path is given.

        Args:
            path: the file.
            prior: replaces the file's prior.

        Raises:
            MaifsError: INVALID_CONFIG when the file or the prior has a fault, with what and where.
        """
        path = path or DEFAULT_FILE
        try:
            model = cls.from_document(json.loads(path.read_text(encoding="utf-8")))
            return model if prior is None else replace(model, prior=_checked_prior("prior", prior))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            detail = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise MaifsError(
                Reason.INVALID_CONFIG,
                f"The fusion file {path} or the prior cannot be used: {detail}.",
                "Make the file with `python -m coordinator.fit_fusion`, or leave the settings out for the defaults.",
            ) from error

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> FusionModel:
        """Builds a model from the parsed content of a file.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: when the content has a fault.
        """
        digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:8]
        groups: dict[str, Group] = {}
        for name, entry in document["groups"].items():
            group = Group(
                name,
                _number(f"groups.{name}.weight_manipulated", entry["weight_manipulated"], 0, 1),
                _number(f"groups.{name}.weight_ai_generated", entry["weight_ai_generated"], 0, 1),
            )
            groups.update((str(test_id), group) for test_id in entry["tests"])
        costs = {name: _number(f"costs.{name}", document["costs"][name], 0, 1e6) for name in Costs.__annotations__}
        authentic = document["authentic"]
        return cls(
            id=f"{document['version']}+sha256:{digest}",
            prior=_checked_prior("prior", Posterior(**document["prior"])),
            costs=Costs(**costs),
            groups=groups,
            other_weight=_number("other_weight", document["other_weight"], 0, 1),
            min_traces=int(_number("authentic.min_traces", authentic["min_traces"], 1, 100)),
            clear_log10_lr_manipulated=_number(
                "authentic.max_log10_lr_manipulated", authentic["max_log10_lr_manipulated"]
            ),
            clear_log10_lr_ai_generated=_number(
                "authentic.max_log10_lr_ai_generated", authentic["max_log10_lr_ai_generated"]
            ),
            rules={str(key): str(rule) for key, rule in document["rules"].items()},
            opinions={source: _opinion_weight(source, entry) for source, entry in document.get("opinions", {}).items()},
        )

    def group(self, finding_id: str) -> Group:
        """The trace that a finding reads; a finding that the fit did not know is a trace by itself."""
        return self.groups.get(finding_id) or Group(finding_id, self.other_weight, self.other_weight)

    def opinion(self, source: OpinionSource) -> OpinionWeight:
        """How far an opinion of a source moves the verdict."""
        return self.opinions.get(source, OpinionWeight())

    def rule(self, explanation_key: str) -> str:
        """The rule of policy that an explanation key stands for; empty when there is none."""
        matches = [key for key in self.rules if explanation_key.startswith(key)]
        return self.rules[max(matches, key=len)] if matches else ""


def fuse(evidence: Sequence[Evidence], model: FusionModel, opinions: Sequence[Opinion] = ()) -> FusionResult:
    """Combines findings into a verdict.

    Within a trace the strongest positive weight counts, or the mean where none is positive; traces add up, each with
    its fitted weight (0..1). Bayes' rule with the stated prior gives the posterior; the verdict is the eligible one of
    least expected cost. "Manipulated" and "AI generated" are eligible only when a test detected its trace,
    "authentic" only when enough traces were tested and both combined ratios are favourable. The order of `evidence`
    does not change the result. An opinion of a language model adds to the ratios with its weight, and is neither a
    detection nor a trace: it can withhold a verdict or add to one, never give one that no test supports.
    """
    tested = sorted((e for e in evidence if e.outcome == "tested"), key=lambda e: e.finding_id)
    contributions = _ordered([*_contributions(tested, model), *_from_opinions(opinions, model)])
    manipulated = math.fsum(c.log10_lr_manipulated for c in contributions)
    ai_generated = math.fsum(c.log10_lr_ai_generated for c in contributions)
    posterior = _posterior(model.prior, manipulated, ai_generated)
    verdict, rule = _decide(tested, contributions, posterior, model)
    probability = max(posterior.authentic, posterior.manipulated, posterior.ai_generated)
    return FusionResult(
        verdict=verdict,
        probability=probability if verdict == "uncertain" else getattr(posterior, verdict),
        posterior=posterior,
        prior=model.prior,
        log10_lr_manipulated=manipulated,
        log10_lr_ai_generated=ai_generated,
        contributions=contributions,
        calibration_id=model.id,
        rule=rule,
    )


def group_shares(weights: Sequence[tuple[str, float, float]]) -> dict[str, float]:
    """Shares of the findings of one trace in its combined weight.

    Args:
        weights: (finding id, log10 LR, cap) of each; those without a cap are uncalibrated and count for nothing.

    Returns:
        Share by finding id: the strongest carries all when it is positive, else each carries its part of the mean.
    """
    limited = {name: _limited(log10_lr, cap) for name, log10_lr, cap in weights if cap > 0}
    if not limited:
        return {}
    best = max(limited, key=lambda name: limited[name])
    if limited[best] > 0:
        return {best: limited[best]}
    return {name: value / len(limited) for name, value in limited.items()}


def _limited(log10_lr: float, cap: float) -> float:
    return min(max(log10_lr, -cap), cap) if math.isfinite(log10_lr) and math.isfinite(cap) else 0.0


def _contributions(tested: Sequence[Evidence], model: FusionModel) -> list[Contribution]:
    by_group: dict[Group, list[Evidence]] = {}
    for item in tested:
        by_group.setdefault(model.group(item.finding_id), []).append(item)
    found = []
    for group, items in by_group.items():
        manipulated = group_shares([(e.finding_id, e.log10_lr_manipulated, e.cap_manipulated) for e in items])
        ai_generated = group_shares([(e.finding_id, e.log10_lr_ai_generated, e.cap_ai_generated) for e in items])
        found += [
            Contribution(
                item.finding_id,
                group.weight_manipulated * manipulated.get(item.finding_id, 0.0),
                group.weight_ai_generated * ai_generated.get(item.finding_id, 0.0),
            )
            for item in items
        ]
    return found


def _from_opinions(opinions: Sequence[Opinion], model: FusionModel) -> list[Contribution]:
    found = []
    for opinion in opinions:
        known = model.opinion(opinion.source)
        confidence = min(max(opinion.confidence, 0.5), 0.999)
        moved = known.weight * min(math.log10(confidence / (1 - confidence)), known.cap)
        towards = {"manipulated": (moved, 0.0), "ai_generated": (0.0, moved), "authentic": (-moved, -moved)}
        found.append(Contribution(OPINION_PREFIX + opinion.source, *towards.get(opinion.verdict, (0.0, 0.0))))
    return found


def _ordered(found: Sequence[Contribution]) -> tuple[Contribution, ...]:
    """Those that moved the result, strongest first."""
    moved = [c for c in found if c.log10_lr_manipulated or c.log10_lr_ai_generated]
    return tuple(
        sorted(moved, key=lambda c: (-max(abs(c.log10_lr_manipulated), abs(c.log10_lr_ai_generated)), c.finding_id))
    )


def _posterior(prior: Posterior, manipulated: float, ai_generated: float) -> Posterior:
    logs = (
        math.log10(prior.authentic),
        math.log10(prior.manipulated) + manipulated,
        math.log10(prior.ai_generated) + ai_generated,
    )
    top = max(logs)
    odds = [10.0 ** max(value - top, -300.0) for value in logs]
    total = math.fsum(odds)
    return Posterior(*(value / total for value in odds))


def _decide(
    tested: Sequence[Evidence], contributions: Sequence[Contribution], posterior: Posterior, model: FusionModel
) -> tuple[Verdict, str]:
    costs = model.costs
    expected: dict[Verdict, float] = {
        "authentic": costs.clear_forged * (posterior.manipulated + posterior.ai_generated),
        "manipulated": costs.accuse_authentic * posterior.authentic + costs.wrong_kind * posterior.ai_generated,
        "ai_generated": costs.accuse_authentic * posterior.authentic + costs.wrong_kind * posterior.manipulated,
    }
    wanted = min(expected, key=lambda verdict: expected[verdict])
    if expected[wanted] >= 1.0:
        return "uncertain", "evidence.too_weak"
    obstacle = _obstacle(wanted, tested, contributions, model)
    return ("uncertain", obstacle) if obstacle else (wanted, _deciding_rule(wanted, tested, contributions, model))


def _obstacle(
    wanted: Verdict, tested: Sequence[Evidence], contributions: Sequence[Contribution], model: FusionModel
) -> str:
    """Why a verdict may not be given although it would cost least; empty when it may."""
    if wanted == "authentic":
        if any(model.rule(e.explanation_key) == "provenance.capture_intact" for e in tested):
            return ""
        traces = {model.group(e.finding_id).name for e in tested if e.cap_manipulated > 0 or e.cap_ai_generated > 0}
        if len(traces) < model.min_traces:
            return "tests.too_few"
        manipulated = math.fsum(c.log10_lr_manipulated for c in contributions)
        ai_generated = math.fsum(c.log10_lr_ai_generated for c in contributions)
        favourable = (
            manipulated <= model.clear_log10_lr_manipulated and ai_generated <= model.clear_log10_lr_ai_generated
        )
        return "" if favourable else "evidence.too_weak"
    detected = {e.finding_id for e in tested if e.detected}
    supported = any(_towards(c, wanted) > 0 and c.finding_id in detected for c in contributions)
    return "" if supported else "evidence.undetected"


def _deciding_rule(
    verdict: Verdict, tested: Sequence[Evidence], contributions: Sequence[Contribution], model: FusionModel
) -> str:
    sign = -1.0 if verdict == "authentic" else 1.0
    keys = {e.finding_id: e.explanation_key for e in tested}
    ordered = sorted((c for c in contributions if c.finding_id in keys), key=lambda c: -sign * _towards(c, verdict))
    for contribution in ordered[:1]:
        rule = model.rule(keys[contribution.finding_id])
        if rule:
            return rule
    if verdict == "authentic":
        return "trace.none_found"
    return f"trace.{model.group(ordered[0].finding_id).name}"


def _towards(contribution: Contribution, verdict: Verdict) -> float:
    if verdict == "manipulated":
        return contribution.log10_lr_manipulated
    if verdict == "ai_generated":
        return contribution.log10_lr_ai_generated
    return contribution.log10_lr_manipulated + contribution.log10_lr_ai_generated


def _number(where: str, value: Any, low: float = -math.inf, high: float = math.inf) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where} is {value!r}; it must be a finite number")
    if not low <= value <= high:
        raise ValueError(f"{where} is {value}; it must be between {low:g} and {high:g}")
    return float(value)


def _opinion_weight(source: str, entry: Mapping[str, Any]) -> OpinionWeight:
    return OpinionWeight(
        weight=_number(f"opinions.{source}.weight", entry["weight"], 0, 1),
        cap=_number(f"opinions.{source}.cap", entry["cap"], 0, 2),
        provenance=str(entry["provenance"]),
    )


def _checked_prior(where: str, prior: Posterior) -> Posterior:
    values = [_number(f"{where}.{name}", getattr(prior, name), 1e-6, 1.0) for name in Posterior.__annotations__]
    if abs(math.fsum(values) - 1.0) > 1e-6:
        raise ValueError(f"{where} adds up to {math.fsum(values):g}; it must add up to 1")
    return prior
