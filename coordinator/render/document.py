"""The JSON form of a report: stable names, plain types, no picture data. docs/report-schema.json is its schema."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable

from google.protobuf import duration_pb2
from google.rpc import status_pb2

from coordinator.render.schema import (
    SCHEMA_VERSION,
    Document,
    DroppedSentence,
    Error,
    ErrorDocument,
    Explanation,
    Finding,
    FromCache,
    Fusion,
    HeatMap,
    ImageFacts,
    Opinion,
    OutcomeName,
    PictureReading,
    Posterior,
    ReportDocument,
    SecondLook,
    Sentence,
    Tool,
    VerdictName,
    Weight,
)
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import report_pb2
from serving.errors import MaifsError
from serving.status import from_status

FUSED_MAP = "fused"
"""Key of the map made of all tools' maps, beside the finding ids."""

_VERDICTS: dict[int, VerdictName] = {
    finding_pb2.VERDICT_AUTHENTIC: "authentic",
    finding_pb2.VERDICT_MANIPULATED: "manipulated",
    finding_pb2.VERDICT_AI_GENERATED: "ai_generated",
}
_OUTCOMES: dict[int, OutcomeName] = {
    finding_pb2.OUTCOME_TESTED: "tested",
    finding_pb2.OUTCOME_NOT_APPLICABLE: "not_applicable",
}


def verdict_name(verdict: int) -> VerdictName:
    """Lower-case name; what a newer service may add reads as "uncertain"."""
    return _VERDICTS.get(verdict, "uncertain")


def tool_name(tool: int) -> str:
    """Lower-case name, "frequency"; "tool_7" for one that this version does not know."""
    try:
        return finding_pb2.Tool.Name(tool).removeprefix("TOOL_").lower()  # type: ignore[arg-type]
    except ValueError:
        return f"tool_{tool}"


def heat_maps(report: report_pb2.Report) -> dict[str, finding_pb2.HeatMap]:
    """All maps of a report by finding id; the fused one, if any, first, as "fused"."""
    found = {FUSED_MAP: report.fused_heat_map} if report.fused_heat_map.png else {}
    for result in report.tool_results:
        found.update({f.id: f.heat_map for f in result.findings if f.heat_map.png})
    return found


def report_document(
    report: report_pb2.Report, path: str, *, map_files: dict[str, str] | None = None, html_file: str | None = None
) -> ReportDocument:
    """The JSON form of a report.

    Args:
        report: as the coordinator sent it.
        path: of the file, as the user named it.
        map_files: names of the heat-map files by key of `heat_maps`, where they were written.
        html_file: name of the HTML report, where one was written.
    """
    files = map_files or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "status": "ok",
        "path": path,
        "file_name": report.file_name,
        "verdict": verdict_name(report.verdict),
        "probability": report.probability,
        "posterior": _posterior(report.posterior),
        "image": _image(report.image),
        "fusion": _fusion(report.fusion),
        "tools": [_tool(result, files) for result in report.tool_results],
        "fused_heat_map": _heat_map(report.fused_heat_map, files.get(FUSED_MAP)),
        "explanation": _explanation(report.explanation),
        "explanation_error": _status(report.explanation_error) if report.HasField("explanation_error") else None,
        "warnings": list(report.warnings),
        "timings": [{"phase": t.phase, "duration_s": _seconds(t.duration)} for t in report.timings],
        "create_time": report.create_time.ToJsonString() if report.HasField("create_time") else "",
        "service_version": report.service_version,
        "request_id": report.request_id,
        "second_look": _second_look(report.second_look) if report.HasField("second_look") else None,
        "picture_reading": _picture_reading(report.picture_reading) if report.HasField("picture_reading") else None,
        "from_cache": _from_cache(report.from_cache) if report.HasField("from_cache") else None,
        "html_file": html_file,
    }


def error_document(error: MaifsError, path: str) -> ErrorDocument:
    """The JSON form of a failure."""
    return {"schema_version": SCHEMA_VERSION, "status": "error", "path": path, "error": _error(error)}


_UNSAFE = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def to_json(document: Document | dict[str, object], *, indent: int | None = None) -> str:
    """JSON text in which no character can steer a terminal or break the line; other letters stay readable.

    Raises:
        ValueError: for numbers that JSON does not have.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False, indent=indent)
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def _error(error: MaifsError) -> Error:
    return {"reason": error.reason.name, "message": error.message, "advice": error.advice}


def _status(status: status_pb2.Status) -> Error:
    return _error(from_status(status))


def _seconds(duration: duration_pb2.Duration) -> float:
    return round(duration.seconds + duration.nanos / 1e9, 6)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _posterior(message: report_pb2.Posterior) -> Posterior:
    return {
        "authentic": message.authentic,
        "manipulated": message.manipulated,
        "ai_generated": message.ai_generated,
    }


def _weight(message: finding_pb2.LikelihoodRatio) -> Weight:
    return {"log10_lr": message.log10_lr, "cap": message.cap}


def _image(info: image_pb2.ImageInfo) -> ImageFacts:
    return {
        "sha256": info.sha256.hex(),
        "size_bytes": info.size_bytes,
        "format": info.format,
        "width_px": info.width_px,
        "height_px": info.height_px,
        "mode": info.mode,
        "bit_depth": info.bit_depth,
        "frame_count": info.frame_count,
        "orientation": info.orientation,
        "jpeg_quality": info.jpeg_quality or None,
        "stratum": info.stratum,
        "metadata": dict(sorted(info.metadata.items())),
    }


def _fusion(fusion: report_pb2.Fusion) -> Fusion:
    return {
        "prior": _posterior(fusion.prior),
        "log10_lr_manipulated": fusion.log10_lr_manipulated,
        "log10_lr_ai_generated": fusion.log10_lr_ai_generated,
        "contributions": [
            {
                "finding_id": part.finding_id,
                "log10_lr_manipulated": part.log10_lr_manipulated,
                "log10_lr_ai_generated": part.log10_lr_ai_generated,
            }
            for part in fusion.contributions
        ],
        "calibration_id": fusion.calibration_id,
        "rule": fusion.rule,
    }


def _tool(result: finding_pb2.ToolResult, map_files: dict[str, str]) -> Tool:
    return {
        "tool": tool_name(result.tool),
        "version": result.version,
        "outcome": _OUTCOMES.get(result.outcome, "failed"),
        "error": _status(result.error) if result.HasField("error") else None,
        "verdict": verdict_name(result.verdict),
        "manipulated": _weight(result.manipulated),
        "ai_generated": _weight(result.ai_generated),
        "findings": [_finding(finding, map_files.get(finding.id)) for finding in result.findings],
        "duration_s": _seconds(result.duration),
    }


def _finding(finding: finding_pb2.Finding, map_file: str | None) -> Finding:
    outcome = _OUTCOMES.get(finding.outcome, "failed")
    tested = outcome == "tested"
    return {
        "id": finding.id,
        "outcome": outcome,
        "reason": finding.reason,
        "detected": tested and finding.detected,
        "score": _finite(finding.score) if tested else None,
        "score_meaning": finding.score_meaning,
        "log10_nfa": _finite(finding.log10_nfa) if tested and finding.HasField("log10_nfa") else None,
        "p_value": _finite(finding.p_value) if tested and finding.HasField("p_value") else None,
        "manipulated": _weight(finding.manipulated),
        "ai_generated": _weight(finding.ai_generated),
        "explanation_key": finding.explanation_key,
        "measurements": [{"name": m.name, "value": _finite(m.value), "unit": m.unit} for m in finding.measurements],
        "regions": [
            {"x_px": r.x_px, "y_px": r.y_px, "width_px": r.width_px, "height_px": r.height_px} for r in finding.regions
        ],
        "heat_map": _heat_map(finding.heat_map, map_file),
        "details": dict(sorted(finding.details.items())),
        "duration_s": _seconds(finding.duration),
    }


def _heat_map(heat_map: finding_pb2.HeatMap, file: str | None) -> HeatMap | None:
    if not heat_map.png:
        return None
    return {
        "file": file,
        "cell_px": heat_map.cell_px,
        "meaning": heat_map.meaning,
        "significant": heat_map.significant,
    }


def _sentences(messages: Iterable[report_pb2.Sentence]) -> list[Sentence]:
    return [
        {
            "text": message.text,
            "author": "model" if message.author == report_pb2.AUTHOR_MODEL else "rules",
            "finding_ids": list(message.finding_ids),
        }
        for message in messages
    ]


def _explanation(message: report_pb2.Explanation) -> Explanation:
    return {
        "summary": _sentences(message.summary),
        "tool_readings": [
            {"tool": tool_name(reading.tool), "sentences": _sentences(reading.sentences)}
            for reading in message.tool_readings
        ],
        "uncertainties": _sentences(message.uncertainties),
        "model": message.model,
        "prompt_version": message.prompt_version,
        "model_sentences_count": message.model_sentences_count,
        "dropped_sentences_count": message.dropped_sentences_count,
        "dropped_sentences": _dropped(message.dropped_sentences),
    }


def _dropped(messages: Iterable[report_pb2.DroppedSentence]) -> list[DroppedSentence]:
    return [{"text": dropped.text, "reason": dropped.reason} for dropped in messages]


def _opinion(message: report_pb2.Opinion) -> Opinion:
    return {
        "verdict": verdict_name(message.verdict),
        "confidence": message.confidence,
        "weight": message.weight,
        "weight_provenance": message.weight_provenance,
    }


def _second_look(message: report_pb2.SecondLook) -> SecondLook:
    return {
        "occasion": message.occasion,
        "turns": [
            {
                "tool": tool_name(turn.tool),
                "side": verdict_name(turn.side),
                "round": turn.round,
                "sentences": _sentences(turn.sentences),
            }
            for turn in message.turns
        ],
        "opinion": _opinion(message.opinion) if message.HasField("opinion") else None,
        "reasons": _sentences(message.reasons),
        "model": message.model,
        "prompt_version": message.prompt_version,
        "model_sentences_count": message.model_sentences_count,
        "dropped_sentences": _dropped(message.dropped_sentences),
        "error": _status(message.error) if message.HasField("error") else None,
    }


def _picture_reading(message: report_pb2.PictureReading) -> PictureReading:
    physical = report_pb2.INCONSISTENCY_KIND_PHYSICAL
    return {
        "depicted": message.depicted,
        "inconsistencies": [
            {"kind": "physical" if found.kind == physical else "semantic", "text": found.text}
            for found in message.inconsistencies
        ],
        "texts_in_picture": list(message.texts_in_picture),
        "opinion": _opinion(message.opinion) if message.HasField("opinion") else None,
        "model": message.model,
        "prompt_version": message.prompt_version,
        "width_px": message.width_px,
        "height_px": message.height_px,
        "error": _status(message.error) if message.HasField("error") else None,
    }


def _from_cache(message: report_pb2.FromCache) -> FromCache:
    return {"serve_time": message.serve_time.ToJsonString(), "request_id": message.request_id}
