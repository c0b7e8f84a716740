"""maifs.coordinator.v1 on the wire: messages in, messages out."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from coordinator.backend_status import llm_status, vision_status
from coordinator.config import LANGUAGES, CoordinatorConfig
from coordinator.counters import CallCounter, Counters
from coordinator.llm_client import LlmClient
from coordinator.pipeline import Options, Pipeline
from coordinator.vision_client import Picture, VisionClient
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving import __version__
from serving.errors import MaifsError, Reason
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream, gather_bytes
from serving.status import to_status

Response = coordinator_pb2.AnalyzeStreamResponse
_ONLY = "picture"


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Translates between the contract and the pipeline."""

    def __init__(
        self, pipeline: Pipeline, vision: VisionClient, llm: LlmClient | None, config: CoordinatorConfig
    ) -> None:
        self._pipeline, self._vision, self._llm, self._config = pipeline, vision, llm, config
        self._budget = ByteBudget(config.max_held_bytes)
        self._limits = ItemLimits(config.max_image_bytes, config.max_open_items)
        self._counters = Counters()
        self._start = time.monotonic()

    async def Analyze(  # noqa: N802
        self, request: coordinator_pb2.AnalyzeRequest, context: Any
    ) -> AsyncIterator[coordinator_pb2.AnalyzeResponse]:
        """One picture. What is refused fails the call; what is admitted ends with `report` or `error`."""
        options = _options(request.options, _deadline(context))
        data = await gather_bytes(request.image, self._config.max_image_bytes)
        self._budget.reserve(len(data))
        counter = CallCounter(self._counters)
        try:
            counter.accepted(_ONLY)
            accepted = image_pb2.ItemAccepted(queue_position_count=self._pipeline.waiting)
            yield _response(coordinator_pb2.ItemEvent(accepted=accepted))
            picture = Picture(data, request.image.file_name[:255], request.image.sha256)
            try:
                async for event in self._pipeline.analyze(picture, options):
                    if event.HasField("report"):
                        counter.completed(_ONLY)
                    yield _response(event)
            except MaifsError as error:
                counter.failed(_ONLY, error)
                yield _response(coordinator_pb2.ItemEvent(error=to_status(error)))
        finally:
            counter.close()
            self._budget.release(len(data))

    async def AnalyzeStream(  # noqa: N802
        self, request_iterator: AsyncIterator[coordinator_pb2.AnalyzeStreamRequest], context: Any
    ) -> AsyncIterator[Response]:
        """Many pictures on one stream."""
        deadline = _deadline(context)
        counter = CallCounter(self._counters)

        def accepted(item_id: str, position: int) -> Response:
            counter.accepted(item_id)
            message = image_pb2.ItemAccepted(queue_position_count=position)
            return Response(item_id=item_id, event=coordinator_pb2.ItemEvent(accepted=message))

        def failed(item_id: str, error: MaifsError) -> Response:
            counter.failed(item_id, error)
            return Response(item_id=item_id, event=coordinator_pb2.ItemEvent(error=to_status(error)))

        async def process(item: Item) -> AsyncGenerator[Response, None]:
            options = _options(item.opening.options, deadline)
            picture = Picture(item.data, item.file_name, item.opening.begin.sha256)
            async for event in self._pipeline.analyze(picture, options):
                if event.HasField("report"):
                    counter.completed(item.item_id)
                yield Response(item_id=item.item_id, event=event)

        handlers = ItemHandlers(
            accepted=accepted,
            failed=failed,
            process=process,
            is_terminal=lambda response: response.event.WhichOneof("event") in {"report", "error"},
            queue_position=lambda: self._pipeline.waiting,
        )
        try:
            async for response in ItemStream(self._limits, self._budget, handlers).run(request_iterator):
                yield response
        finally:
            counter.close()

    async def GetStatus(  # noqa: N802
        self, request: coordinator_pb2.GetStatusRequest, context: Any
    ) -> coordinator_pb2.GetStatusResponse:
        """Backends, counters and limits."""
        backends = await asyncio.gather(vision_status(self._vision), llm_status(self._llm))
        return coordinator_pb2.GetStatusResponse(
            backends=backends,
            open_items_count=self._counters.open,
            held_bytes=self._budget.held_bytes,
            completed_items_count=self._counters.completed,
            failed_items_count=self._counters.failed,
            limits=coordinator_pb2.CoordinatorLimits(
                max_image_bytes=self._config.max_image_bytes,
                max_items_per_stream_count=self._config.max_open_items,
                max_held_bytes=self._config.max_held_bytes,
            ),
            service_version=__version__,
            uptime_seconds=time.monotonic() - self._start,
        )


def _response(event: coordinator_pb2.ItemEvent) -> coordinator_pb2.AnalyzeResponse:
    return coordinator_pb2.AnalyzeResponse(event=event)


def _deadline(context: Any) -> float:
    """The client's deadline by the event loop's clock."""
    left = context.time_remaining()
    return math.inf if left is None else asyncio.get_running_loop().time() + float(left)


def _options(options: coordinator_pb2.AnalyzeOptions, deadline: float) -> Options:
    for name in ("llm_timeout_seconds", "llm_wait_seconds"):
        seconds = getattr(options, name)
        if not (math.isfinite(seconds) and seconds >= 0):
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"options.{name} is {seconds}; it must be finite and at least 0.",
                "Leave it out for the service's setting.",
            )
    if options.language not in {"", *LANGUAGES}:
        raise MaifsError(
            Reason.INVALID_REQUEST, f"options.language is {options.language[:20]!r}.", f"Use {' or '.join(LANGUAGES)}."
        )
    return Options(
        skip_llm=options.skip_llm,
        llm_timeout_s=options.llm_timeout_seconds,
        llm_wait_s=options.llm_wait_seconds,
        language=options.language,
        deadline=deadline,
    )
