"""Between the contracts' messages and the coordinator's own records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from coordinator.case import Case, FileFacts, Finding, Measurement, Region, ToolEvidence
from coordinator.explanation.text import Dropped, Explanation, Sentence
from coordinator.fusion import Evidence, FusionResult, Outcome, Posterior
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import report_pb2

TOOL_NAMES: Mapping[int, str] = {
    finding_pb2.TOOL_FREQUENCY: "frequency",
    finding_pb2.TOOL_NOISE: "noise",
    finding_pb2.TOOL_WATERMARK: "watermark",
    finding_pb2.TOOL_SPATIAL: "spatial",
}
TOOL_NUMBERS: Mapping[str, finding_pb2.Tool.ValueType] = {
    "frequency": finding_pb2.TOOL_FREQUENCY,
    "noise": finding_pb2.TOOL_NOISE,
    "watermark": finding_pb2.TOOL_WATERMARK,
    "spatial": finding_pb2.TOOL_SPATIAL,
}
VERDICT_NUMBERS: Mapping[str, finding_pb2.Verdict.ValueType] = {
    "authentic": finding_pb2.VERDICT_AUTHENTIC,
    "manipulated": finding_pb2.VERDICT_MANIPULATED,
    "ai_generated": finding_pb2.VERDICT_AI_GENERATED,
    "uncertain": finding_pb2.VERDICT_UNCERTAIN,
}
_OUTCOMES: Mapping[int, Outcome] = {
    finding_pb2.OUTCOME_TESTED: "tested",
    finding_pb2.OUTCOME_NOT_APPLICABLE: "not_applicable",
}
_AUTHORS: Mapping[str, report_pb2.Author.ValueType] = {
    "rules": report_pb2.AUTHOR_RULES,
    "model": report_pb2.AUTHOR_MODEL,
}


def to_outcome(number: int) -> Outcome:
    """An outcome's name; what is neither tested nor not applicable counts as failed."""
    return _OUTCOMES.get(number, "failed")


def to_evidence(results: Iterable[finding_pb2.ToolResult]) -> list[Evidence]:
    """What fusion needs of the tools' findings."""
    return [
        Evidence(
            finding_id=finding.id,
            tool=TOOL_NAMES.get(result.tool, "unknown"),
            outcome=to_outcome(finding.outcome),
            detected=finding.detected,
            log10_lr_manipulated=finding.manipulated.log10_lr,
            log10_lr_ai_generated=finding.ai_generated.log10_lr,
            cap_manipulated=finding.manipulated.cap,
            cap_ai_generated=finding.ai_generated.cap,
            explanation_key=finding.explanation_key,
        )
        for result in results
        for finding in result.findings
    ]


def to_case(image: image_pb2.ImageInfo, results: Iterable[finding_pb2.ToolResult], fusion: FusionResult) -> Case:
    """The case of one picture."""
    tools = tuple(
        ToolEvidence(
            tool=(name := TOOL_NAMES.get(result.tool, "unknown")),
            outcome=to_outcome(result.outcome),
            findings=tuple(_finding(finding, name) for finding in result.findings),
            error=result.error.message,
        )
        for result in results
    )
    facts = FileFacts(image.format, image.width_px, image.height_px, image.jpeg_quality)
    return Case(facts, tools, fusion)


def _finding(finding: finding_pb2.Finding, tool: str) -> Finding:
    return Finding(
        id=finding.id,
        tool=tool,
        outcome=to_outcome(finding.outcome),
        reason=finding.reason,
        score=finding.score,
        score_meaning=finding.score_meaning,
        log10_nfa=finding.log10_nfa if finding.HasField("log10_nfa") else None,
        p_value=finding.p_value if finding.HasField("p_value") else None,
        log10_lr_manipulated=finding.manipulated.log10_lr,
        log10_lr_ai_generated=finding.ai_generated.log10_lr,
        detected=finding.detected,
        explanation_key=finding.explanation_key,
        measurements=tuple(Measurement(m.name, m.value, m.unit) for m in finding.measurements),
        regions=tuple(Region(r.x_px, r.y_px, r.width_px, r.height_px) for r in finding.regions),
        details=dict(finding.details),
    )


def to_posterior(posterior: Posterior) -> report_pb2.Posterior:
    """Three probabilities."""
    return report_pb2.Posterior(
        authentic=posterior.authentic, manipulated=posterior.manipulated, ai_generated=posterior.ai_generated
    )


def to_fusion(result: FusionResult) -> report_pb2.Fusion:
    """How the verdict was reached."""
    return report_pb2.Fusion(
        prior=to_posterior(result.prior),
        log10_lr_manipulated=result.log10_lr_manipulated,
        log10_lr_ai_generated=result.log10_lr_ai_generated,
        contributions=[
            report_pb2.Contribution(
                finding_id=c.finding_id,
                log10_lr_manipulated=c.log10_lr_manipulated,
                log10_lr_ai_generated=c.log10_lr_ai_generated,
            )
            for c in result.contributions
        ],
        calibration_id=result.calibration_id,
        rule=result.rule,
    )


def to_explanation(explanation: Explanation) -> report_pb2.Explanation:
    """Why, in words."""
    return report_pb2.Explanation(
        summary=to_sentences(explanation.summary),
        tool_readings=[
            report_pb2.ToolReading(
                tool=TOOL_NUMBERS.get(reading.tool, finding_pb2.TOOL_UNSPECIFIED),
                sentences=to_sentences(reading.sentences),
            )
            for reading in explanation.readings
        ],
        uncertainties=to_sentences(explanation.uncertainties),
        model=explanation.model,
        prompt_version=explanation.prompt_version,
        model_sentences_count=explanation.model_sentences,
        dropped_sentences_count=len(explanation.dropped),
        dropped_sentences=to_dropped(explanation.dropped),
    )


def to_sentences(sentences: Iterable[Sentence]) -> list[report_pb2.Sentence]:
    """Sentences with their authors."""
    return [report_pb2.Sentence(text=s.text, author=_AUTHORS[s.author], finding_ids=s.finding_ids) for s in sentences]


def to_dropped(dropped: Iterable[Dropped]) -> list[report_pb2.DroppedSentence]:
    """Sentences that did not hold."""
    return [report_pb2.DroppedSentence(text=d.text, reason=d.reason) for d in dropped]
