"""maifs.vision.v1 on the wire: messages in, messages out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from typing import Any

from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving import __version__
from serving.access.caller import counted, metered
from serving.channel import INLINE_BYTES
from serving.errors import MaifsError, Reason
from serving.gpu.report import current_pin
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream, gather_bytes
from serving.status import to_status
from vision_service.analyzer import Analysis, Analyzer
from vision_service.config import VisionConfig
from vision_service.convert import TOOL_NAMES, TOOL_NUMBERS, to_result, to_tool_result
from vision_service.decoding.pictures import FORMATS
from vision_service.device import describe_device
from vision_service.domain import ToolName
from vision_service.metrics import VisionMetrics

Response = vision_pb2.AnalyzeStreamResponse


class VisionServicer(vision_pb2_grpc.VisionServiceServicer):
    """Translates between the contract and the analyzer."""

    def __init__(self, analyzer: Analyzer, config: VisionConfig, metrics: VisionMetrics) -> None:
        self._analyzer, self._config, self._metrics = analyzer, config, metrics
        self._budget = ByteBudget(config.max_held_bytes)
        metrics.show(analyzer, self._budget, config.workers)
        self._limits = ItemLimits(config.limits.max_image_bytes, config.max_open_items_per_stream)

    async def Analyze(self, request: vision_pb2.AnalyzeRequest, context: Any) -> vision_pb2.AnalyzeResponse:  # noqa: N802
        """One picture, one answer."""
        data = await gather_bytes(request.image, min(self._config.limits.max_image_bytes, INLINE_BYTES))
        with counted(len(data), self._budget):
            async for event in self._analyzer.analyze(data, _tool_names(request.tools)):
                if isinstance(event, Analysis):
                    self._metrics.analysed(event)
                    return vision_pb2.AnalyzeResponse(result=await asyncio.to_thread(to_result, event))
        raise MaifsError(Reason.INTERNAL, "The analysis ended without a result.")

    async def AnalyzeStream(  # noqa: N802
        self, request_iterator: AsyncIterator[vision_pb2.AnalyzeStreamRequest], context: Any
    ) -> AsyncIterator[Response]:
        """Many pictures on one stream."""
        handlers = ItemHandlers(
            accepted=lambda item_id, accepted: Response(item_id=item_id, accepted=accepted),
            failed=self._failed,
            process=self._process,
            is_terminal=lambda response: response.WhichOneof("event") in {"result", "error"},
            queue_position=lambda: self._analyzer.waiting,
        )
        async for response in ItemStream(self._limits, metered(self._budget), handlers).run(request_iterator):
            yield response

    def _failed(self, item_id: str, error: MaifsError) -> Response:
        self._metrics.failed(error.reason)
        return Response(item_id=item_id, error=to_status(error))

    async def _process(self, item: Item) -> AsyncGenerator[Response, None]:
        async for event in self._analyzer.analyze(item.data, _tool_names(item.opening.tools)):
            if isinstance(event, Analysis):
                self._metrics.analysed(event)
                result = await asyncio.to_thread(to_result, event)  # PNG encoding
                yield Response(item_id=item.item_id, result=result)
            else:
                yield Response(item_id=item.item_id, tool_result=await asyncio.to_thread(to_tool_result, event))

    async def ListTools(self, request: vision_pb2.ListToolsRequest, context: Any) -> vision_pb2.ListToolsResponse:  # noqa: N802
        """What this service is and may do."""
        limits = self._config.limits
        return vision_pb2.ListToolsResponse(
            tools=[
                vision_pb2.ToolInfo(
                    tool=TOOL_NUMBERS[tool.name],
                    version=tool.version,
                    tests=[
                        vision_pb2.TestInfo(id=t.id, description=t.description, source=t.source) for t in tool.tests
                    ],
                )
                for tool in self._analyzer.tools.values()
            ],
            formats=FORMATS,
            limits=vision_pb2.VisionLimits(
                max_image_bytes=limits.max_image_bytes,
                max_pixels_count=min(limits.max_pixels, self._analyzer.memory.max_pixels),
                max_side_px=limits.max_side_px,
                max_items_per_stream_count=self._config.max_open_items_per_stream,
                max_queued_items_count=self._config.max_queued_items,
                memory_budget_bytes=self._analyzer.memory.limit_bytes,
            ),
            device=describe_device(self._analyzer.device),
            service_version=__version__,
            calibration_id=self._analyzer.calibration.id,
            gpu_pin=current_pin().message(),
        )


def _tool_names(numbers: Iterable[int]) -> tuple[ToolName, ...]:
    unknown = [number for number in numbers if number not in TOOL_NAMES]
    if unknown:
        raise MaifsError(
            Reason.INVALID_REQUEST, f"tools holds {unknown}, which name no tool.", "ListTools says which there are."
        )
    return tuple(TOOL_NAMES[number] for number in numbers)
