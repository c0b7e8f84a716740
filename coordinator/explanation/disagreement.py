"""Do the tools disagree? Which sides there are when they do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from coordinator.case import TOOLS, Case
from coordinator.fusion import Contribution, Verdict

CLEAR_LOG10_LR = 0.3
"""Weight from which a detected trace counts as its tool's word against another detected trace."""
STRONG_LOG10_LR = 1.0
"""Weight from which a detected trace is contradicted by tests of other tools."""
AGAINST_LOG10_LR = -0.1
"""Weight of such tests together."""

Occasion = Literal["opposed", "contradicted"]


@dataclass(frozen=True)
class Side:
    """One tool and what its evidence speaks for."""

    tool: str
    hypothesis: Verdict
    finding_ids: tuple[str, ...]
    """Of its findings, those that speak for it, strongest first."""


@dataclass(frozen=True)
class Disagreement:
    """Two sides."""

    occasion: Occasion
    first: Side
    second: Side


def find_disagreement(case: Case) -> Disagreement | None:
    """The strongest disagreement between tools; None when they agree.

    Counted are the weights that findings have in the verdict. Tools are opposed when one detected a trace of editing
    and another a trace of generation; a strong trace is contradicted when tests of another tool, which found nothing,
    speak against it together.
    """
    tool_of = {finding.id: finding.tool for finding in case.findings() if finding.tool in TOOLS}
    detected = {finding.id for finding in case.findings() if finding.tested and finding.detected}
    by_tool: dict[str, list[Contribution]] = defaultdict(list)
    for contribution in case.fusion.contributions:
        if contribution.finding_id in tool_of:
            by_tool[tool_of[contribution.finding_id]].append(contribution)
    traces = {
        hypothesis: _strongest(by_tool, detected, hypothesis)
        for hypothesis in ("manipulated", "ai_generated")
    }  # fmt: skip
    edited, made = traces["manipulated"], traces["ai_generated"]
    if edited and made and edited[0] != made[0] and min(edited[1], made[1]) >= CLEAR_LOG10_LR:
        return Disagreement("opposed", _for(edited[0], "manipulated", by_tool), _for(made[0], "ai_generated", by_tool))
    return _contradicted(traces, by_tool)


def _contradicted(
    traces: Mapping[str, tuple[str, float] | None], by_tool: Mapping[str, list[Contribution]]
) -> Disagreement | None:
    for hypothesis, trace in sorted(traces.items(), key=lambda item: -(item[1][1] if item[1] else 0.0)):
        if trace is None or trace[1] < STRONG_LOG10_LR:
            continue
        others = {
            tool: math.fsum(min(_weight(c, hypothesis), 0.0) for c in found)
            for tool, found in by_tool.items()
            if tool != trace[0]
        }
        if others and min(others.values()) <= AGAINST_LOG10_LR:
            against = min(others, key=lambda tool: others[tool])
            speaking = _ordered((c for c in by_tool[against] if _weight(c, hypothesis) < 0), hypothesis, sign=-1)
            name: Verdict = "manipulated" if hypothesis == "manipulated" else "ai_generated"
            return Disagreement("contradicted", _for(trace[0], name, by_tool), Side(against, "authentic", speaking))
    return None


def _strongest(
    by_tool: Mapping[str, list[Contribution]], detected: set[str], hypothesis: str
) -> tuple[str, float] | None:
    """The tool with the strongest detected trace, and its weight."""
    found = {
        tool: max((_weight(c, hypothesis) for c in contributions if c.finding_id in detected), default=0.0)
        for tool, contributions in by_tool.items()
    }
    tool = max(found, key=lambda name: found[name], default="")
    return (tool, found[tool]) if tool and found[tool] > 0 else None


def _for(tool: str, hypothesis: Verdict, by_tool: Mapping[str, list[Contribution]]) -> Side:
    speaking = _ordered((c for c in by_tool[tool] if _weight(c, hypothesis) > 0), hypothesis)
    return Side(tool, hypothesis, speaking)


def _ordered(contributions: Iterable[Contribution], hypothesis: str, sign: int = 1) -> tuple[str, ...]:
    return tuple(c.finding_id for c in sorted(contributions, key=lambda c: -sign * _weight(c, hypothesis)))


def _weight(contribution: Contribution, hypothesis: str) -> float:
    return contribution.log10_lr_manipulated if hypothesis == "manipulated" else contribution.log10_lr_ai_generated
