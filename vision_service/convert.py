"""From the tools' vocabulary to the contract's."""

from __future__ import annotations

from collections.abc import Mapping

import cv2
from google.protobuf import duration_pb2

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.vision.v1 import vision_pb2
from serving.errors import MaifsError, Reason
from serving.status import to_status
from vision_service.analyzer import Analysis
from vision_service.domain import MAX_REGIONS, Finding, HeatMap, Outcome, Region, ToolName, ToolResult, Verdict, Weight
from vision_service.substrate import Substrate
from vision_service.tools.watermark.selected_metadata import selected_metadata

TOOL_NUMBERS: Mapping[ToolName, finding_pb2.Tool.ValueType] = {
    ToolName.FREQUENCY: finding_pb2.TOOL_FREQUENCY,
    ToolName.NOISE: finding_pb2.TOOL_NOISE,
    ToolName.WATERMARK: finding_pb2.TOOL_WATERMARK,
    ToolName.SPATIAL: finding_pb2.TOOL_SPATIAL,
}
TOOL_NAMES: Mapping[int, ToolName] = {number: name for name, number in TOOL_NUMBERS.items()}
_OUTCOMES = {
    Outcome.TESTED: finding_pb2.OUTCOME_TESTED,
    Outcome.NOT_APPLICABLE: finding_pb2.OUTCOME_NOT_APPLICABLE,
    Outcome.FAILED: finding_pb2.OUTCOME_FAILED,
}
_VERDICTS = {
    Verdict.AUTHENTIC: finding_pb2.VERDICT_AUTHENTIC,
    Verdict.MANIPULATED: finding_pb2.VERDICT_MANIPULATED,
    Verdict.AI_GENERATED: finding_pb2.VERDICT_AI_GENERATED,
    Verdict.UNCERTAIN: finding_pb2.VERDICT_UNCERTAIN,
}
_DETAIL_LIMIT = 512


def to_duration(seconds: float) -> duration_pb2.Duration:
    """Seconds as a protobuf Duration."""
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


def to_result(analysis: Analysis) -> vision_pb2.VisionResult:
    """The terminal message of a picture."""
    return vision_pb2.VisionResult(
        image=_image_info(analysis.substrate),
        tool_results=[to_tool_result(result) for result in analysis.results],
        timings=[
            finding_pb2.PhaseTiming(phase=phase, duration=to_duration(seconds))
            for phase, seconds in analysis.timings_s.items()
        ],
        fused_heat_map=_heat_map(analysis.fused_map),
    )


def to_tool_result(result: ToolResult) -> finding_pb2.ToolResult:
    """One tool's result."""
    failed = result.outcome is Outcome.FAILED
    return finding_pb2.ToolResult(
        tool=TOOL_NUMBERS[result.tool],
        version=result.version,
        outcome=_OUTCOMES[result.outcome],
        error=to_status(MaifsError(Reason.BACKEND_FAILED, result.error)) if failed else None,
        verdict=_VERDICTS[result.verdict],
        manipulated=_weight(result.manipulated),
        ai_generated=_weight(result.ai_generated),
        findings=[_finding(finding) for finding in result.findings],
        duration=to_duration(result.duration_s),
    )


def _finding(finding: Finding) -> finding_pb2.Finding:
    seen = finding.observation
    return finding_pb2.Finding(
        id=finding.id,
        outcome=_OUTCOMES[seen.outcome],
        reason=seen.reason,
        score=seen.score,
        score_meaning=seen.score_meaning,
        log10_nfa=seen.log10_nfa,
        p_value=seen.p_value,
        manipulated=_weight(finding.manipulated),
        ai_generated=_weight(finding.ai_generated),
        detected=seen.detected,
        explanation_key=seen.explanation_key,
        measurements=[
            finding_pb2.Measurement(name=m.name, value=float(m.value), unit=m.unit) for m in seen.measurements
        ],
        regions=[_region(region) for region in seen.regions[:MAX_REGIONS]],
        heat_map=_heat_map(seen.heat_map),
        details={key: value[:_DETAIL_LIMIT] for key, value in seen.details.items()},
        duration=to_duration(finding.duration_s),
    )


def _weight(weight: Weight) -> finding_pb2.LikelihoodRatio:
    return finding_pb2.LikelihoodRatio(log10_lr=weight.log10_lr, cap=weight.cap)


def _region(region: Region) -> image_pb2.Region:
    return image_pb2.Region(
        x_px=region.x_px, y_px=region.y_px, width_px=max(1, region.width_px), height_px=max(1, region.height_px)
    )


def _heat_map(heat_map: HeatMap | None) -> finding_pb2.HeatMap | None:
    if heat_map is None or heat_map.values.size == 0:
        return None
    _, png = cv2.imencode(".png", heat_map.values)
    return finding_pb2.HeatMap(
        png=png.tobytes(), cell_px=heat_map.cell_px, meaning=heat_map.meaning, significant=heat_map.significant
    )


def _image_info(substrate: Substrate) -> image_pb2.ImageInfo:
    container = substrate.container
    return image_pb2.ImageInfo(
        sha256=substrate.sha256,
        size_bytes=len(substrate.data),
        format=container.format,
        width_px=substrate.width_px,
        height_px=substrate.height_px,
        mode=container.mode,
        bit_depth=container.bit_depth,
        frame_count=container.frame_count,
        orientation=container.orientation,
        jpeg_quality=substrate.jpeg.quality if substrate.jpeg else 0,
        stratum=substrate.stratum,
        metadata=selected_metadata(container),
    )
