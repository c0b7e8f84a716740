"""What a sentence says of the picture as a whole, against the verdict and against what the cited finding can carry."""

from __future__ import annotations

from typing import Literal

from coordinator.case import Finding
from coordinator.explanation.lexicon import Lexicon
from coordinator.fusion import Verdict

_CLEARS_LOG10_LR = -1.0
"""A finding speaks for "authentic" only from this weight on against both other hypotheses (provenance can)."""


def verdict_reason(
    text: str,
    finding: Finding | None,
    section: Literal["summary", "reading", "uncertainty"],
    verdict: Verdict,
    lexicon: Lexicon,
) -> str:
    """Why a sentence contradicts the verdict or goes beyond its finding; empty when it does neither."""
    if section == "summary" and verdict != "uncertain" and lexicon.undecided.search(text):
        return f"it says that there is no conclusion, and the verdict is {verdict}"
    if section == "uncertainty" and lexicon.open_question.search(text):
        return ""
    for clause in lexicon.clause_break.split(text):
        named = [hypothesis for hypothesis, pattern in lexicon.hypotheses.items() if pattern.search(clause)]
        for hypothesis in named:
            reason = _clause_reason(clause, hypothesis, finding, verdict, lexicon)
            if reason:
                return reason
    return ""


def _clause_reason(clause: str, hypothesis: str, finding: Finding | None, verdict: Verdict, lexicon: Lexicon) -> str:
    match = lexicon.hypotheses[hypothesis].search(clause)
    said = match.group() if match else hypothesis
    negated = lexicon.negation.search(clause) is not None
    if verdict == "uncertain" and finding is None:
        if lexicon.open_question.search(clause):
            return ""
        return f"{said!r} takes a side, and the verdict is uncertain"
    if negated:
        if hypothesis == verdict:
            return f"{said!r} is denied, and the verdict is {verdict}"
        limited = finding is not None and not finding.detected and lexicon.trace.search(clause)
        return "" if limited else f"{said!r} is denied, which no finding carries"
    carried = {verdict} if finding is None else _carried(finding)
    return "" if hypothesis in carried else f"{said!r} is more than what it cites can carry"


def _carried(finding: Finding) -> set[str]:
    manipulated, ai_generated = finding.log10_lr_manipulated, finding.log10_lr_ai_generated
    carried = set()
    if finding.detected and manipulated > 0:
        carried.add("manipulated")
    if finding.detected and ai_generated > 0:
        carried.add("ai_generated")
    if max(manipulated, ai_generated) <= _CLEARS_LOG10_LR:
        carried.add("authentic")
    return carried
