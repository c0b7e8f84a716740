"""maifs.coordinator.v1 on the wire: messages in, messages out."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from coordinator.admission import Admission, Share
from coordinator.backend_status import llm_disabled, llm_status, vision_status
from coordinator.backends.fair_queue import Priority, Turn
from coordinator.backends.pool import Pool
from coordinator.cache import ReportCache
from coordinator.config import LANGUAGES, CoordinatorConfig
from coordinator.counters import CallCounter, Counters
from coordinator.journal.batches import Batches
from coordinator.llm_client import LlmClient
from coordinator.pipeline import Options, Pipeline
from coordinator.vision_client import Picture, VisionClient
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving import __version__
from serving.access.caller import current_caller, metered
from serving.errors import MaifsError, Reason
from serving.item_stream import Item, ItemHandlers, ItemLimits, ItemStream, gather_bytes
from serving.status import to_status

Response = coordinator_pb2.AnalyzeStreamResponse
_ONLY = "picture"


class CoordinatorServicer(coordinator_pb2_grpc.CoordinatorServiceServicer):
    """Translates between the contract and the pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        vision: Pool[VisionClient],
        llm: Pool[LlmClient] | None,
        cache: ReportCache,
        admission: Admission,
        config: CoordinatorConfig,
        counters: Counters,
        batches: Batches | None,
    ) -> None:
        self._pipeline, self._vision, self._llm, self._cache, self._config = pipeline, vision, llm, cache, config
        self._admission = admission
        self._limits = ItemLimits(config.max_image_bytes, config.max_open_items)
        self._counters, self._batches = counters, batches
        self._start = time.monotonic()
        self._streams = itertools.count(1)

    async def Analyze(  # noqa: N802
        self, request: coordinator_pb2.AnalyzeRequest, context: Any
    ) -> AsyncIterator[coordinator_pb2.AnalyzeResponse]:
        """One picture. What is refused fails the call; what is admitted ends with `report` or `error`."""
        client = current_caller.get().client or str(context.peer())
        options = to_options(request.options, client, _deadline(context))
        data = await gather_bytes(request.image, self._config.max_image_bytes)
        share = metered(self._share(client, options.turn, options.deadline))
        share.reserve(len(data))
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
            share.release(len(data))

    async def AnalyzeStream(  # noqa: N802
        self, request_iterator: AsyncIterator[coordinator_pb2.AnalyzeStreamRequest], context: Any
    ) -> AsyncIterator[Response]:
        """Many pictures on one stream."""
        deadline = _deadline(context)
        client = current_caller.get().client or f"{context.peer()} {next(self._streams)}"
        counter = CallCounter(self._counters)

        def accepted(item_id: str, message: image_pb2.ItemAccepted) -> Response:
            counter.accepted(item_id)
            return Response(item_id=item_id, event=coordinator_pb2.ItemEvent(accepted=message))

        def failed(item_id: str, error: MaifsError) -> Response:
            counter.failed(item_id, error)
            return Response(item_id=item_id, event=coordinator_pb2.ItemEvent(error=to_status(error)))

        async def process(item: Item) -> AsyncGenerator[Response, None]:
            options = to_options(item.opening.options, client, deadline)
            picture = Picture(item.encoded, item.file_name, item.opening.begin.sha256)
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
            room = metered(self._share(client, Turn(client), deadline))
            async for response in ItemStream(self._limits, room, handlers).run(request_iterator):
                yield response
        finally:
            counter.close()

    def _share(self, client: str, turn: Turn, deadline: float) -> Share:
        """Room for pictures of a client that can end in time."""
        return self._admission.share(client, lambda: self._vision.refuse_if_late(turn, deadline))

    async def GetStatus(  # noqa: N802
        self, request: coordinator_pb2.GetStatusRequest, context: Any
    ) -> coordinator_pb2.GetStatusResponse:
        """Backends, counters and limits; limits alone where status is closed."""
        limits = coordinator_pb2.CoordinatorLimits(
            max_image_bytes=self._config.max_image_bytes,
            max_items_per_stream_count=self._config.max_open_items,
            max_held_bytes=self._config.max_held_bytes,
        )
        if not self._config.server.access.status:
            return coordinator_pb2.GetStatusResponse(limits=limits, service_version=__version__)
        backends = await asyncio.gather(
            *(vision_status(backend) for backend in self._vision.backends),
            *(llm_status(backend) for backend in (self._llm.backends if self._llm else ())),
        )
        if not self._llm:
            backends.append(llm_disabled())
        return coordinator_pb2.GetStatusResponse(
            backends=backends,
            open_items_count=self._counters.open,
            held_bytes=self._admission.held_bytes,
            completed_items_count=self._counters.completed,
            failed_items_count=self._counters.failed,
            limits=limits,
            service_version=__version__,
            uptime_seconds=time.monotonic() - self._start,
            waiting_items_count=self._pipeline.waiting,
            queued_batch_items_count=await self._batches.queued_count() if self._batches else 0,
            cache=coordinator_pb2.CacheStatus(
                reports_count=len(self._cache),
                held_bytes=self._cache.held_bytes,
                max_held_bytes=self._cache.max_bytes,
                hits_count=self._cache.hits,
            ),
        )


def _response(event: coordinator_pb2.ItemEvent) -> coordinator_pb2.AnalyzeResponse:
    return coordinator_pb2.AnalyzeResponse(event=event)


def _deadline(context: Any) -> float:
    """The client's deadline by the event loop's clock."""
    left = context.time_remaining()
    return math.inf if left is None else asyncio.get_running_loop().time() + float(left)


def to_options(options: coordinator_pb2.AnalyzeOptions, client: str, deadline: float = math.inf) -> Options:
    """Options for the pipeline.

    Args:
        options: as a client sent them.
        client: with whom they share their turn.
        deadline: see Options.deadline.

    Raises:
        MaifsError: INVALID_REQUEST.
    """
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
        turn=Turn(
            client, Priority.BATCH if options.priority == coordinator_pb2.PRIORITY_BATCH else Priority.INTERACTIVE
        ),
        skip_cache=options.skip_cache,
    )
