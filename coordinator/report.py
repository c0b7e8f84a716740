"""The report of one picture, put together from what all stages said."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from coordinator.convert import TOOL_NAMES, VERDICT_NUMBERS, to_explanation, to_fusion, to_posterior
from coordinator.explanation.explainer import Explained
from coordinator.explanation.picture_reading import PictureReading
from coordinator.explanation.second_look import SecondLook
from coordinator.fusion import FusionModel, FusionResult
from coordinator.opinion_messages import to_picture_reading, to_second_look
from coordinator.vision_client import Picture
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from maifs.vision.v1 import vision_pb2
from serving import __version__
from serving.requests import current_request_id
from serving.status import to_status

_ORDER = {number: place for place, number in enumerate(TOOL_NAMES)}


@dataclass
class ToolEvidence:
    """What the vision service sent of one picture."""

    results: dict[int, finding_pb2.ToolResult] = field(default_factory=dict)
    final: vision_pb2.VisionResult = field(default_factory=vision_pb2.VisionResult)
    identity: str = ""
    """Versions of the backend that did the work; empty when not known."""

    def in_order(self) -> list[finding_pb2.ToolResult]:
        """Tool results in the order of reports."""
        return sorted(self.results.values(), key=lambda result: _ORDER.get(result.tool, len(_ORDER)))


def verdict_reached(fusion: FusionResult) -> coordinator_pb2.ItemEvent:
    """The event that tells the verdict."""
    reached = coordinator_pb2.VerdictReached(verdict=VERDICT_NUMBERS[fusion.verdict], probability=fusion.probability)
    return coordinator_pb2.ItemEvent(verdict_reached=reached)


def make_report(
    picture: Picture, evidence: ToolEvidence, fusion: FusionResult, explained: Explained
) -> report_pb2.Report:
    """Everything about one picture but opinions and timings."""
    report = report_pb2.Report(
        image=evidence.final.image,
        file_name=picture.file_name,
        verdict=VERDICT_NUMBERS[fusion.verdict],
        probability=fusion.probability,
        posterior=to_posterior(fusion.posterior),
        fusion=to_fusion(fusion),
        tool_results=evidence.in_order(),
        explanation=to_explanation(explained.explanation),
        warnings=_warnings(evidence.in_order()),
        service_version=__version__,
        request_id=current_request_id.get(),
    )
    if explained.error is not None:
        report.explanation_error.CopyFrom(to_status(explained.error))
    if evidence.final.HasField("fused_heat_map"):
        report.fused_heat_map.CopyFrom(evidence.final.fused_heat_map)
    report.create_time.FromNanoseconds(time.time_ns())
    return report


def add_opinions(
    report: report_pb2.Report, looked: SecondLook | None, read: PictureReading | None, model: FusionModel
) -> None:
    """Puts what language models think into a report, with the weights that they have."""
    if looked is not None:
        report.second_look.CopyFrom(to_second_look(looked, model.opinion("second_look")))
    if read is not None:
        report.picture_reading.CopyFrom(to_picture_reading(read, model.opinion("picture_reading")))


def _warnings(results: list[finding_pb2.ToolResult]) -> list[str]:
    """Tools and tests that broke. The others count."""
    found = []
    for result in results:
        name = TOOL_NAMES.get(result.tool, "unknown")
        if result.outcome == finding_pb2.OUTCOME_FAILED:
            found.append(f"Tool {name} failed and counted for nothing: {result.error.message or 'no reason given'}")
            continue
        found += [
            f"Test {finding.id} failed and counted for nothing: {finding.reason or 'no reason given'}"
            for finding in result.findings
            if finding.outcome == finding_pb2.OUTCOME_FAILED
        ]
    missing = [name for number, name in TOOL_NAMES.items() if number not in {result.tool for result in results}]
    return found + [f"Tool {name} gave no result and counted for nothing" for name in missing]
