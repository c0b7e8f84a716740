"""A simulated coordinator: real gRPC on a UNIX socket, made-up reports. What it does to a file follows its name."""

from __future__ import annotations

import asyncio
import hashlib
import io
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from PIL import Image

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc, report_pb2
from serving.channel import MAX_MESSAGE_BYTES
from serving.errors import MaifsError, Reason
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream
from serving.status import to_status

MAX_OPEN_ITEMS = 3
MAX_IMAGE_BYTES = 5_000_000
Response = coordinator_pb2.AnalyzeStreamResponse


def heat_map(significant: bool = True) -> finding_pb2.HeatMap:
    values = np.zeros((6, 8), dtype=np.uint8)
    values[1:3, 2:5] = 255
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return finding_pb2.HeatMap(png=buffer.getvalue(), cell_px=8, meaning="Foreign grid.", significant=significant)


def findings() -> list[finding_pb2.Finding]:
    lr = finding_pb2.LikelihoodRatio
    found = finding_pb2.Finding(
        id="frequency.foreign_grid",
        outcome=finding_pb2.OUTCOME_TESTED,
        score=6.5,
        score_meaning="-log10 NFA, 0..30",
        log10_nfa=-6.5,
        manipulated=lr(log10_lr=1.9, cap=2.0),
        ai_generated=lr(log10_lr=-0.2, cap=1.0),
        detected=True,
        explanation_key="frequency.foreign_grid.detected",
        measurements=[finding_pb2.Measurement(name="shift", value=3, unit="px")],
        regions=[image_pb2.Region(x_px=16, y_px=8, width_px=24, height_px=16)],
        heat_map=heat_map(),
        details={"software": "GIMP"},
    )
    quiet = finding_pb2.Finding(
        id="frequency.double_jpeg", outcome=finding_pb2.OUTCOME_TESTED, score=0.1, score_meaning="ratio, 0..1"
    )
    skipped = finding_pb2.Finding(
        id="frequency.resampling", outcome=finding_pb2.OUTCOME_NOT_APPLICABLE, score=9.0, reason="too small"
    )
    return [found, quiet, skipped]


def tool_results() -> list[finding_pb2.ToolResult]:
    lr = finding_pb2.LikelihoodRatio
    first = finding_pb2.ToolResult(
        tool=finding_pb2.TOOL_FREQUENCY,
        version="0.1.0",
        outcome=finding_pb2.OUTCOME_TESTED,
        verdict=finding_pb2.VERDICT_MANIPULATED,
        manipulated=lr(log10_lr=1.9, cap=2.0),
        findings=findings(),
    )
    broken = finding_pb2.ToolResult(
        tool=finding_pb2.TOOL_NOISE,
        version="0.1.0",
        outcome=finding_pb2.OUTCOME_FAILED,
        verdict=finding_pb2.VERDICT_UNCERTAIN,
        error=to_status(MaifsError(Reason.INTERNAL, "The noise tool broke.")),
    )
    return [first, broken]


def sentence(text: str, *finding_ids: str, by_model: bool = False) -> report_pb2.Sentence:
    author = report_pb2.AUTHOR_MODEL if by_model else report_pb2.AUTHOR_RULES
    return report_pb2.Sentence(text=text, author=author, finding_ids=finding_ids)


def make_report(data: bytes, file_name: str) -> report_pb2.Report:
    """A complete report of a manipulated picture of 64 x 48 pixels."""
    report = report_pb2.Report(
        image=image_pb2.ImageInfo(
            sha256=hashlib.sha256(data).digest(),
            size_bytes=len(data),
            format="PNG",
            width_px=64,
            height_px=48,
            mode="RGB",
            bit_depth=8,
            frame_count=1,
            orientation=1,
            stratum="lossless",
            metadata={"Make": "MAIFS", "Software": "Editor 1.0"},
        ),
        file_name=file_name,
        verdict=finding_pb2.VERDICT_MANIPULATED,
        probability=0.93,
        posterior=report_pb2.Posterior(authentic=0.05, manipulated=0.93, ai_generated=0.02),
        fusion=report_pb2.Fusion(
            prior=report_pb2.Posterior(authentic=0.7, manipulated=0.15, ai_generated=0.15),
            log10_lr_manipulated=1.9,
            log10_lr_ai_generated=-0.2,
            contributions=[report_pb2.Contribution(finding_id="frequency.foreign_grid", log10_lr_manipulated=1.9)],
            calibration_id="0.1+sha256:00000000",
            rule="trace.grid",
        ),
        tool_results=tool_results(),
        explanation=report_pb2.Explanation(
            summary=[sentence("A region comes from another file.", "frequency.foreign_grid")],
            tool_readings=[
                report_pb2.ToolReading(
                    tool=finding_pb2.TOOL_FREQUENCY,
                    sentences=[sentence("The grid is shifted by 3 px.", "frequency.foreign_grid", by_model=True)],
                )
            ],
            uncertainties=[sentence("The original would help.")],
            model="tiny-model",
            prompt_version="v1",
            model_sentences_count=2,
            dropped_sentences_count=1,
            dropped_sentences=[
                report_pb2.DroppedSentence(text="The shift is 7 px.", reason="7 is not in the findings")
            ],
        ),
        warnings=["The noise tool failed."],
        service_version="0.1.0",
        request_id="0123456789abcdef",
    )
    for phase, milliseconds in (("decode", 12), ("total", 345)):
        timing = report.timings.add(phase=phase)
        timing.duration.FromMilliseconds(milliseconds)
    report.create_time.FromJsonString("2026-05-17T10:24:31Z")
    return report


@dataclass
class SimulatedCoordinator(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """fail*: NOT_AN_IMAGE; busy*: QUEUE_FULL the first time; slow*: never ends; crash*: the whole call ends;
    pause*: the tools have ended, the rest waits for `go_on`."""

    options: list[coordinator_pb2.AnalyzeOptions] = field(default_factory=list)
    received: dict[str, bytes] = field(default_factory=dict)
    open_items: int = 0
    most_open_items: int = 0
    llm_state: coordinator_pb2.BackendState.ValueType = coordinator_pb2.BACKEND_STATE_SERVING
    status_calls: int = 0
    refused: set[str] = field(default_factory=set)
    go_on: threading.Event = field(default_factory=threading.Event)

    def Analyze(self, request: Any, context: Any) -> Any:
        raise NotImplementedError

    async def AnalyzeStream(self, request_iterator: AsyncIterator[Any], context: Any) -> AsyncIterator[Response]:
        handlers = ItemHandlers[Response](
            accepted=lambda item_id, accepted: self._event(item_id, accepted=accepted),
            failed=lambda item_id, error: self._event(item_id, error=to_status(error)),
            process=lambda item: self._process(item, context),
            is_terminal=lambda response: response.event.WhichOneof("event") in {"report", "error"},
            queue_position=lambda: 0,
        )
        limits = ItemLimits(MAX_IMAGE_BYTES, MAX_OPEN_ITEMS)
        stream = ItemStream[Response](limits, ByteBudget(100_000_000), handlers)
        async for response in stream.run(request_iterator):
            yield response

    def _event(self, item_id: str, **event: Any) -> Response:
        return Response(item_id=item_id, event=coordinator_pb2.ItemEvent(**event))

    async def _process(self, item: Item, context: Any) -> AsyncGenerator[Response, None]:
        self.open_items += 1
        self.most_open_items = max(self.most_open_items, self.open_items)
        self.received[item.file_name] = item.data
        self.options.append(item.opening.options)
        try:
            await asyncio.sleep(0.02)
            await self._misbehave(item, context)
            for result in tool_results():
                yield self._event(item.item_id, tool_result=result)
            if item.file_name.startswith("pause"):
                await asyncio.to_thread(self.go_on.wait, 60)
            reached = coordinator_pb2.VerdictReached(verdict=finding_pb2.VERDICT_MANIPULATED, probability=0.93)
            yield self._event(item.item_id, verdict_reached=reached)
            yield self._event(item.item_id, report=make_report(item.data, item.file_name))
        finally:
            self.open_items -= 1

    async def _misbehave(self, item: Item, context: Any) -> None:
        name = item.file_name
        if name.startswith("fail"):
            raise MaifsError(Reason.NOT_AN_IMAGE, "The content is not an image.", "Send an image.")
        if name.startswith("busy") and name not in self.refused:
            self.refused.add(name)
            raise MaifsError(Reason.QUEUE_FULL, "The queue is full.", retry_after_s=0.05)
        if name.startswith("slow"):
            await asyncio.sleep(3600)
        if name.startswith("crash"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "going down")

    async def GetStatus(self, request: Any, context: Any) -> coordinator_pb2.GetStatusResponse:
        self.status_calls += 1
        state = self.llm_state
        if self.status_calls >= 4 and state == coordinator_pb2.BACKEND_STATE_NOT_SERVING:
            state = self.llm_state = coordinator_pb2.BACKEND_STATE_SERVING
        return coordinator_pb2.GetStatusResponse(
            backends=[
                coordinator_pb2.BackendStatus(
                    name="vision",
                    address="unix:/v.sock",
                    state=coordinator_pb2.BACKEND_STATE_SERVING,
                    description="frequency 0.1.0",
                    devices=["cpu"],
                ),
                coordinator_pb2.BackendStatus(name="llm", address="unix:/l.sock", state=state, reason="starting"),
            ],
            completed_items_count=7,
            limits=coordinator_pb2.CoordinatorLimits(
                max_image_bytes=MAX_IMAGE_BYTES, max_items_per_stream_count=MAX_OPEN_ITEMS, max_held_bytes=100_000_000
            ),
            service_version="0.1.0",
            uptime_seconds=75.0,
        )


class ServerThread:
    """A SimulatedCoordinator on an event loop of its own, beside that of the command under test."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.coordinator = SimulatedCoordinator()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._server: grpc.aio.Server
        self.start()

    def start(self) -> None:
        self._server = self._await(self._start())

    def stop(self) -> None:
        self._await(self._server.stop(0))

    def _await(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _start(self) -> grpc.aio.Server:
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)])
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(self.coordinator, server)
        health = health_aio.HealthServicer()
        await health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(self.address)
        await server.start()
        return server

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
