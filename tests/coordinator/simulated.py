"""Backends whose behaviour a test sets: real gRPC servers on UNIX sockets, simulated work."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving.channel import MAX_MESSAGE_BYTES
from serving.errors import MaifsError, Reason
from serving.interceptor import ServiceInterceptor
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream
from serving.status import to_status

TOOLS = (
    finding_pb2.TOOL_FREQUENCY, finding_pb2.TOOL_NOISE, finding_pb2.TOOL_WATERMARK, finding_pb2.TOOL_SPATIAL,
)  # fmt: skip


def lr(value: float, cap: float = 3.0) -> finding_pb2.LikelihoodRatio:
    return finding_pb2.LikelihoodRatio(log10_lr=value, cap=cap)


def tool_results() -> list[finding_pb2.ToolResult]:
    """A spliced picture: a foreign grid was found, the other tests found nothing or did not apply."""
    grid = finding_pb2.Finding(
        id="frequency.foreign_grid",
        outcome=finding_pb2.OUTCOME_TESTED,
        score=12.3,
        score_meaning="-log10 of the number of false alarms",
        log10_nfa=-12.3,
        manipulated=lr(2.6),
        ai_generated=lr(0.0),
        detected=True,
        explanation_key="frequency.foreign_grid.detected",
        measurements=[
            finding_pb2.Measurement(name="foreign_votes", value=640, unit="count"),
            finding_pb2.Measurement(name="foreign_grid_x", value=3, unit="px"),
            finding_pb2.Measurement(name="foreign_grid_y", value=5, unit="px"),
            finding_pb2.Measurement(name="foreign_region_count", value=1, unit="count"),
            finding_pb2.Measurement(name="picture_grid_x", value=0, unit="px"),
            finding_pb2.Measurement(name="picture_grid_y", value=0, unit="px"),
        ],
        regions=[image_pb2.Region(x_px=700, y_px=10, width_px=120, height_px=80)],
    )
    noise = finding_pb2.Finding(
        id="noise.level_map",
        outcome=finding_pb2.OUTCOME_TESTED,
        score=0.9,
        score_meaning="-log10 of the number of false alarms",
        manipulated=lr(-0.2),
        ai_generated=lr(0.0),
        explanation_key="noise.level_map.not_detected",
        measurements=[finding_pb2.Measurement(name="median_noise", value=2.4, unit="grey levels")],
    )
    metadata = finding_pb2.Finding(
        id="watermark.metadata_software",
        outcome=finding_pb2.OUTCOME_TESTED,
        score=1,
        score_meaning="saved steps",
        manipulated=lr(0.0, 0.0),
        ai_generated=lr(0.0, 0.0),
        explanation_key="watermark.metadata_software.not_detected",
    )
    copy_move = finding_pb2.Finding(
        id="spatial.copy_move",
        outcome=finding_pb2.OUTCOME_NOT_APPLICABLE,
        reason="the picture has too few key points",
        explanation_key="not_applicable.no_texture",
    )
    rows = zip(TOOLS, (grid, noise, metadata, copy_move), strict=True)
    return [
        finding_pb2.ToolResult(tool=tool, version="1.0.0", outcome=finding.outcome, findings=[finding])
        for tool, finding in rows
    ]


def image_info(size_bytes: int) -> image_pb2.ImageInfo:
    return image_pb2.ImageInfo(
        format="JPEG", width_px=900, height_px=600, jpeg_quality=92, size_bytes=size_bytes, mode="RGB", bit_depth=8
    )


@dataclass
class SimulatedVision(vision_pb2_grpc.VisionServiceServicer):
    """A vision service."""

    results: list[finding_pb2.ToolResult] = field(default_factory=tool_results)
    before_tools: Callable[[Item, int], Awaitable[None]] | None = None
    """Called with the item and the number of the attempt; may wait or raise."""
    between_tools: Callable[[Item, int], Awaitable[None]] | None = None
    """Called after each tool with its number."""
    version: str = "1.0.0"
    source: str = ""
    deadlines: list[float | None] = field(default_factory=list)
    """Seconds that each call had left when it came."""
    items: list[Item] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    """How the work on each item ended: "done" or "cancelled"."""
    concurrent: int = 0
    most_concurrent: int = 0

    async def Analyze(self, request: vision_pb2.AnalyzeRequest, context: Any) -> vision_pb2.AnalyzeResponse:
        raise NotImplementedError

    async def AnalyzeStream(
        self, request_iterator: AsyncIterator[vision_pb2.AnalyzeStreamRequest], context: Any
    ) -> AsyncIterator[vision_pb2.AnalyzeStreamResponse]:
        self.deadlines.append(context.time_remaining())
        response = vision_pb2.AnalyzeStreamResponse
        handlers = ItemHandlers(
            accepted=lambda item_id, accepted: response(item_id=item_id, accepted=accepted),
            failed=lambda item_id, error: response(item_id=item_id, error=to_status(error)),
            process=self._process,
            is_terminal=lambda r: r.WhichOneof("event") in {"result", "error"},
            queue_position=lambda: 0,
        )
        stream = ItemStream(ItemLimits(2**27, 8), ByteBudget(2**29), handlers)
        async for message in stream.run(request_iterator):
            yield message

    async def _process(self, item: Item) -> AsyncGenerator[vision_pb2.AnalyzeStreamResponse, None]:
        self.items.append(item)
        self.concurrent += 1
        self.most_concurrent = max(self.most_concurrent, self.concurrent)
        try:
            if self.before_tools:
                await self.before_tools(item, len(self.items))
            for number, result in enumerate(self.results):
                yield vision_pb2.AnalyzeStreamResponse(item_id=item.item_id, tool_result=result)
                if self.between_tools:
                    await self.between_tools(item, number)
            timing = finding_pb2.PhaseTiming(phase="decode")
            timing.duration.FromMilliseconds(7)
            final = vision_pb2.VisionResult(
                image=image_info(len(item.data)), tool_results=self.results, timings=[timing]
            )
            final.image.sha256 = hashlib.sha256(item.data).digest()
            self.ended.append("done")
            yield vision_pb2.AnalyzeStreamResponse(item_id=item.item_id, result=final)
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        finally:
            self.concurrent -= 1

    async def ListTools(self, request: vision_pb2.ListToolsRequest, context: Any) -> vision_pb2.ListToolsResponse:
        return vision_pb2.ListToolsResponse(
            tools=[
                vision_pb2.ToolInfo(
                    tool=tool, version=self.version, tests=[vision_pb2.TestInfo(id="a.test", source=self.source)]
                )
                for tool in TOOLS
            ],
            device="cpu",
            service_version="0.0.0",
            calibration_id="test",
        )


GOOD_ANSWER: dict[str, Any] = {
    "summary": [
        {
            "finding": "frequency.foreign_grid",
            "text": "A region in the upper right lies on a foreign grid, with a score of 12.3.",
        }
    ],
    "frequency": {"finding": "frequency.foreign_grid", "text": "The region was pasted with 640 foreign votes."},
    "noise": {"finding": "noise.level_map", "text": "The noise tool did not find a trace; its score is 0.9."},
    "watermark": {"finding": "watermark.metadata_software", "text": "No trace of editing software was found."},
    "uncertainties": [{"finding": "noise.level_map", "text": "The noise test found no trace, which is weak."}],
}


@dataclass
class SimulatedLlm(llm_pb2_grpc.LlmServiceServicer):
    """A language-model service."""

    answer: str = field(default_factory=lambda: json.dumps(GOOD_ANSWER))
    answer_to: Callable[[llm_pb2.GenerateRequest], str] | None = None
    """Makes the answer to a request, in place of `answer`."""
    max_images: int = 0
    deadlines: list[float | None] = field(default_factory=list)
    """Seconds that each request had left when it came."""
    before_finish: Callable[[], Awaitable[None]] | None = None
    """Called in the middle of the answer; may wait or raise."""
    model: str = "simulated-1b"
    fail: MaifsError | None = None
    warm_fail: MaifsError | None = None
    cached_tokens: int = 500
    finish_reason: llm_pb2.FinishReason.ValueType = llm_pb2.FINISH_REASON_STOP
    requests: list[llm_pb2.GenerateRequest] = field(default_factory=list)
    warmed: int = 0
    cancelled: int = 0

    async def Generate(self, request: llm_pb2.GenerateRequest, context: Any) -> AsyncIterator[llm_pb2.GenerateResponse]:
        self.requests.append(request)
        self.deadlines.append(context.time_remaining())
        if self.fail:
            raise self.fail
        answer = self.answer_to(request) if self.answer_to else self.answer
        try:
            half = len(answer) // 2
            yield llm_pb2.GenerateResponse(delta=answer[:half])
            if self.before_finish:
                await self.before_finish()
            yield llm_pb2.GenerateResponse(delta=answer[half:])
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        usage = llm_pb2.Usage(
            prompt_tokens_count=900, cached_prompt_tokens_count=self.cached_tokens, output_tokens_count=80
        )
        yield llm_pb2.GenerateResponse(finish=llm_pb2.GenerateFinish(reason=self.finish_reason, usage=usage))

    async def WarmPrefix(self, request: llm_pb2.WarmPrefixRequest, context: Any) -> llm_pb2.WarmPrefixResponse:
        self.warmed += 1
        if self.warm_fail:
            raise self.warm_fail
        return llm_pb2.WarmPrefixResponse(prompt_tokens_count=500)

    async def GetModelInfo(self, request: llm_pb2.GetModelInfoRequest, context: Any) -> llm_pb2.GetModelInfoResponse:
        return llm_pb2.GetModelInfoResponse(
            model=self.model,
            architecture="SimulatedForCausalLM",
            dtype="bfloat16",
            limits=llm_pb2.LlmLimits(max_images_count=self.max_images),
        )


async def start_server(
    address: str,
    add: Callable[[grpc.aio.Server], None],
    names: tuple[str, ...],
    health: health_aio.HealthServicer | None = None,
) -> grpc.aio.Server:
    """A server as the services have it, with health."""
    server = grpc.aio.server(
        interceptors=[ServiceInterceptor()],
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ],
    )
    add(server)
    health = health or health_aio.HealthServicer()
    for name in ("", *names):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    server.add_insecure_port(address)
    await server.start()
    return server


def unavailable(message: str = "it is draining") -> MaifsError:
    return MaifsError(Reason.SHUTTING_DOWN, message, retry_after_s=0.1)
