"""The explanation that rules write: always made, always complete, in the words of the message catalogue."""

from __future__ import annotations

import math
from collections.abc import Iterable

from coordinator.case import Case, Finding, ToolEvidence
from coordinator.explanation.catalogue import Catalogue, Number, percent
from coordinator.explanation.text import Explanation, Sentence, ToolReading
from coordinator.fusion import FusionResult

_MAX_NAMED_TESTS = 6


def write_explanation(case: Case, words: Catalogue) -> Explanation:
    """Summary of two to four sentences, a reading for each tool, and what stays open."""
    return Explanation(
        summary=tuple(_summary(case, words)),
        readings=tuple(ToolReading(tool.tool, tuple(_reading(tool, words))) for tool in case.tools),
        uncertainties=tuple(_uncertainties(case, words)),
    )


def _rules(text: str, findings: Iterable[Finding] = ()) -> Sentence:
    return Sentence(text, "rules", tuple(finding.id for finding in findings))


def log10_support(fusion: FusionResult) -> float:
    """log10 of what the evidence did to the odds of the verdict's hypothesis against the other two together."""
    if fusion.verdict == "uncertain":
        return 0.0
    after, before = getattr(fusion.posterior, fusion.verdict), getattr(fusion.prior, fusion.verdict)
    return _log10_odds(after) - _log10_odds(before)


def _log10_odds(probability: float) -> float:
    probability = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log10(probability / (1 - probability))


def verdict_sentence(case: Case, words: Catalogue) -> Sentence:
    """What the findings support, how strongly, and the probability."""
    fusion = case.fusion
    strength = words.strength(log10_support(fusion))
    text = words.phrase(f"verdict.{fusion.verdict}", strength=strength, probability=percent(fusion.probability))
    return _rules(text, case.decisive()[:3] if fusion.verdict != "uncertain" else ())


def _summary(case: Case, words: Catalogue) -> Iterable[Sentence]:
    yield verdict_sentence(case, words)
    yield from deciding_sentences(case, words)
    yield scope_sentence(case, words)


def deciding_sentences(case: Case, words: Catalogue) -> list[Sentence]:
    """What decided, and where it lies: one sentence or two."""
    leading = [finding for finding in case.decisive() if finding.detected]
    if case.fusion.verdict == "authentic":
        provenance = [finding for finding in case.decisive() if finding.id.startswith("watermark.")][:1]
        if case.fusion.rule.startswith("provenance.") and provenance:
            return [_rules(words.finding(provenance[0]), provenance)]
        return [_rules(words.phrase("decided.nothing_found", tests=_count(case, "tested")))]
    if case.fusion.verdict == "uncertain":
        return _undecided(case, leading, words)
    if not leading:
        return [_rules(words.phrase("decided.sum_of_weak"))]
    return _told(leading[0], case, words)


def _undecided(case: Case, leading: list[Finding], words: Catalogue) -> list[Sentence]:
    rule = case.fusion.rule
    known = {"evidence.too_weak", "evidence.undetected", "tests.too_few"}
    reason = words.phrase(f"undecided.{rule.replace('.', '_')}" if rule in known else "undecided.other")
    detected = leading or [finding for finding in case.findings() if finding.tested and finding.detected]
    return [_rules(reason), *(_told(detected[0], case, words)[:1] if detected else [])]


def _told(finding: Finding, case: Case, words: Catalogue) -> list[Sentence]:
    sentences = [_rules(words.finding(finding), [finding])]
    if finding.regions:
        region = finding.regions[0]
        sentences.append(
            _rules(
                words.phrase(
                    "where",
                    place=words.place(region, case),
                    width=region.width_px,
                    height=region.height_px,
                    x=region.x_px,
                    y=region.y_px,
                ),
                [finding],
            )
        )
    return sentences


def scope_sentence(case: Case, words: Catalogue) -> Sentence:
    """How much of the testing could be done."""
    total = sum(1 for _ in case.findings())
    tested, failed = _count(case, "tested"), _count(case, "failed")
    return _rules(words.phrase("scope_failed" if failed else "scope", tested=tested, total=total, failed=failed))


def _count(case: Case, outcome: str) -> int:
    return sum(finding.outcome == outcome for finding in case.findings())


def _reading(tool: ToolEvidence, words: Catalogue) -> Iterable[Sentence]:
    if tool.outcome == "failed":
        yield _rules(words.phrase("tool_failed"), tool.findings)
        return
    tested = [finding for finding in tool.findings if finding.tested]
    for finding in sorted(tested, key=lambda f: not f.detected):
        yield finding_sentence(finding, words)
    yield from _idle(tool.findings, words)
    if not tool.findings:
        yield _rules(words.phrase("no_tests"))


def finding_sentence(finding: Finding, words: Catalogue) -> Sentence:
    """What one finding says, with a note when it is seen but does not count."""
    text = words.finding(finding)
    if finding.detected and not (finding.log10_lr_manipulated or finding.log10_lr_ai_generated):
        text = f"{text} {words.phrase('without_weight')}"
    return _rules(text, [finding])


def _idle(findings: Iterable[Finding], words: Catalogue) -> Iterable[Sentence]:
    """One sentence for each reason for which tests could not run, and one for those that broke."""
    by_reason: dict[str, list[Finding]] = {}
    broken = []
    for finding in findings:
        if finding.outcome == "not_applicable":
            by_reason.setdefault(words.inapplicable(finding), []).append(finding)
        elif finding.outcome == "failed":
            broken.append(finding)
    for reason, group in by_reason.items():
        yield _rules(words.phrase("not_applicable", test=_named(group, words), reason=reason), group)
    if broken:
        yield _rules(words.phrase("failed", test=_named(broken, words)), broken)


def _named(findings: list[Finding], words: Catalogue) -> str:
    names = [words.title(finding.id) for finding in findings]
    shown = ", ".join(names[:_MAX_NAMED_TESTS])
    more = len(names) - _MAX_NAMED_TESTS
    return shown if more <= 0 else f"{shown} {words.phrase('and_more', count=Number(more))}"


def _uncertainties(case: Case, words: Catalogue) -> Iterable[Sentence]:
    for finding in case.findings():
        caveat = words.caveat(finding) if finding.tested and finding.detected else ""
        if caveat:
            yield _rules(caveat, [finding])
    yield _rules(words.phrase("absence_is_weak"))
    idle = [finding for finding in case.findings() if finding.outcome == "not_applicable"]
    if idle:
        yield _rules(words.phrase("untested", tests=_named(idle, words)), idle)
    broken = [finding for finding in case.findings() if finding.outcome == "failed"]
    if broken:
        yield _rules(words.phrase("broken", tests=_named(broken, words)), broken)
    if case.file.format != "JPEG" or 0 < case.file.jpeg_quality < 80:
        yield _rules(words.phrase("original_wanted"))
