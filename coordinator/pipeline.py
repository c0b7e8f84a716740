"""One picture from its bytes to its report: the single path behind Analyze and AnalyzeStream."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from coordinator.convert import (
    TOOL_NAMES,
    VERDICT_NUMBERS,
    to_case,
    to_evidence,
    to_explanation,
    to_fusion,
    to_posterior,
)
from coordinator.explanation.explainer import Explained, Explainer
from coordinator.fusion import FusionModel, FusionResult, fuse
from coordinator.timings import Phases
from coordinator.vision_client import Picture, VisionClient, VisionEvent
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from maifs.vision.v1 import vision_pb2
from serving import __version__
from serving.errors import MaifsError, Reason
from serving.requests import current_request_id
from serving.status import to_status

_log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.3
"""Wait before a picture is sent to the vision service a second time."""

DEADLINE_RESERVE_S = 0.25
"""Kept back from a client's deadline, so that the report still reaches it when the language model is slow."""

_ORDER = {number: place for place, number in enumerate(TOOL_NAMES)}


@dataclass(frozen=True)
class Options:
    """How to analyse one picture."""

    skip_llm: bool = False
    llm_timeout_s: float = 0.0
    """0: the service's setting."""
    llm_wait_s: float = 0.0
    """Seconds to wait for a language model that is still loading."""
    language: str = ""
    """Empty: the service's setting."""
    deadline: float = math.inf
    """Moment by the event loop's clock at which the client gives up."""


@dataclass
class Evidence:
    """What the vision service sent of one picture."""

    results: dict[int, finding_pb2.ToolResult] = field(default_factory=dict)
    final: vision_pb2.VisionResult = field(default_factory=vision_pb2.VisionResult)

    def in_order(self) -> list[finding_pb2.ToolResult]:
        """Tool results in the order of reports."""
        return sorted(self.results.values(), key=lambda result: _ORDER.get(result.tool, len(_ORDER)))


class Pipeline:
    """Pictures in, events out. Many run at a time; each holds its encoded bytes and nothing decoded."""

    def __init__(
        self,
        vision: VisionClient,
        explainers: Mapping[str, Explainer],
        model: FusionModel,
        *,
        item_timeout_s: float,
        vision_concurrency: int,
    ) -> None:
        self._vision, self._explainers, self._model = vision, explainers, model
        self._item_timeout_s = item_timeout_s
        self._vision_slots = asyncio.Semaphore(vision_concurrency)
        self.waiting = 0
        """Pictures that wait for their turn at the vision service."""

    async def analyze(self, picture: Picture, options: Options) -> AsyncIterator[coordinator_pb2.ItemEvent]:
        """Events of one picture: tool results as the tools end, the verdict, then the report.

        Raises:
            MaifsError: when there can be no report: the picture's own fault or the vision service's.
        """
        phases = Phases()
        explainer = self._explainers[options.language]
        warming = None if options.skip_llm else explainer.warm()
        evidence = Evidence()
        async for event in self._look(picture, options, phases):
            if isinstance(event, vision_pb2.VisionResult):
                evidence.final = event
                evidence.results |= {result.tool: result for result in event.tool_results}
            else:
                evidence.results[event.tool] = event
                yield coordinator_pb2.ItemEvent(tool_result=event)
        with phases.measure("fusion"):
            fusion = fuse(to_evidence(evidence.in_order()), self._model)
        yield coordinator_pb2.ItemEvent(verdict_reached=_verdict_reached(fusion))
        with phases.measure("explanation"):
            case = to_case(evidence.final.image, evidence.in_order(), fusion)
            explained = await explainer.explain(
                case,
                skip_llm=options.skip_llm,
                timeout_s=options.llm_timeout_s,
                wait_s=options.llm_wait_s,
                deadline=options.deadline - DEADLINE_RESERVE_S,
            )
        if warming is not None and warming.done() and not warming.cancelled() and warming.result() >= 0:
            phases.add("prefix_warm", warming.result())
        yield coordinator_pb2.ItemEvent(report=_report(picture, evidence, fusion, explained, phases))

    async def _look(self, picture: Picture, options: Options, phases: Phases) -> AsyncIterator[VisionEvent]:
        """The vision service's events.

        They pass through a queue of their own (a picture has five at most), so that a client that reads slowly does
        not keep a place at the vision service from the pictures of others.
        """
        events: asyncio.Queue[VisionEvent | BaseException | None] = asyncio.Queue()
        task = asyncio.ensure_future(self._fill(picture, options, phases, events))
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            task.cancel()

    async def _fill(
        self,
        picture: Picture,
        options: Options,
        phases: Phases,
        events: asyncio.Queue[VisionEvent | BaseException | None],
    ) -> None:
        try:
            with phases.measure("queue"):
                await self._take_slot()
            try:
                await self._send(picture, options, events)
            finally:
                self._vision_slots.release()
            events.put_nowait(None)
        except Exception as error:  # noqa: BLE001 - raised again by `_look`
            events.put_nowait(error)

    async def _take_slot(self) -> None:
        self.waiting += 1
        try:
            await self._vision_slots.acquire()
        finally:
            self.waiting -= 1

    async def _send(
        self, picture: Picture, options: Options, events: asyncio.Queue[VisionEvent | BaseException | None]
    ) -> None:
        clock = asyncio.get_running_loop().time
        deadline = min(clock() + self._item_timeout_s, options.deadline)
        seen: set[int] = set()
        for attempt in (1, 2):
            try:
                async for event in self._vision.analyze(picture, max(deadline - clock(), 0.0)):
                    if isinstance(event, finding_pb2.ToolResult):
                        if event.tool in seen:
                            continue
                        seen.add(event.tool)
                    events.put_nowait(event)
                return
            except MaifsError as error:
                again = error.reason is Reason.BACKEND_UNAVAILABLE and not seen and attempt == 1
                if not again or deadline - clock() <= RETRY_DELAY_S:
                    raise
                _log.info("vision unavailable, sending the picture again", extra={"detail": error.message})
                await asyncio.sleep(RETRY_DELAY_S)


def _verdict_reached(fusion: FusionResult) -> coordinator_pb2.VerdictReached:
    return coordinator_pb2.VerdictReached(verdict=VERDICT_NUMBERS[fusion.verdict], probability=fusion.probability)


def _report(
    picture: Picture, evidence: Evidence, fusion: FusionResult, explained: Explained, phases: Phases
) -> report_pb2.Report:
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
        timings=phases.merged(evidence.final.timings),
        service_version=__version__,
        request_id=current_request_id.get(),
    )
    if explained.error is not None:
        report.explanation_error.CopyFrom(to_status(explained.error))
    if evidence.final.HasField("fused_heat_map"):
        report.fused_heat_map.CopyFrom(evidence.final.fused_heat_map)
    report.create_time.FromNanoseconds(time.time_ns())
    return report


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
