"""Many pictures as a batch of the coordinator's journal: whatever dies, each has its end, once, when this is run again.

Two calls run side by side and are made anew when they break: SubmitBatch offers what is not there yet, WatchBatch
tells what has ended. What either has achieved is in the journal, so nothing is lost with them.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass

import grpc

from coordinator.client.batch_submit import BatchSubmit, Known, Refused
from coordinator.client.pictures import Picture
from coordinator.client.stream import Event, Failed, Reported, Sent, ToolEnded, VerdictKnown
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error, from_status

PATIENCE_S = 60.0
"""Seconds without an answer after which the coordinator counts as lost."""
_PAUSE_S = 0.3
_TRANSIENT = frozenset(
    {
        Reason.BACKEND_UNAVAILABLE,
        Reason.SHUTTING_DOWN,
        Reason.CANCELLED,
        Reason.DEADLINE_EXCEEDED,
        Reason.BACKEND_FAILED,  # what gRPC itself says of a connection that broke during a write
    }
)

_REPORTED = batch_pb2.BATCH_ITEM_STATE_REPORTED
_ENDED = frozenset({_REPORTED, batch_pb2.BATCH_ITEM_STATE_FAILED, batch_pb2.BATCH_ITEM_STATE_CANCELLED})

Key = tuple[str, bytes]
"""Name and digest: what an item is within its batch."""


@dataclass(frozen=True)
class BatchRequest:
    """Which batch, and how."""

    batch_id: str
    title: str
    options: batch_pb2.BatchOptions
    max_image_bytes: int
    fresh: bool = False
    """Analyse again what has ended."""


class BatchRun:
    """One run over a list of pictures. A picture's index is its place in the list, its name Picture.name."""

    def __init__(
        self, channel: grpc.aio.Channel, address: str, pictures: Sequence[Picture], request: BatchRequest
    ) -> None:
        self._stub: batch_pb2_grpc.BatchServiceAsyncStub = batch_pb2_grpc.BatchServiceStub(channel)
        self._address, self._request = address, request
        self._submit = BatchSubmit(self._stub, pictures, request.max_image_bytes)
        self._unfinished = set(range(len(pictures)))
        self._indexes: dict[Key, set[int]] = {}
        self._by_position: dict[int, set[int]] = {}
        self._ends: deque[tuple[int, batch_pb2.BatchItem]] = deque()
        self._changed = asyncio.Event()
        self._early: dict[Key, batch_pb2.BatchItem] = {}
        self._cursor = -1
        self._begun = asyncio.Event()
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(maxsize=16)
        self._last_answer = time.monotonic()
        self.known: set[int] = set()
        """Pictures that had ended before this run."""
        self.submitted = False
        """Whether the coordinator has all pictures; then it finishes them without us."""

    @property
    def batch_id(self) -> str:
        """The batch."""
        return self._request.batch_id

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything that happens; exactly one Reported or Failed for each picture.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE when the coordinator is lost for `PATIENCE_S`; what it has accepted is
                safe. NO_JOURNAL, BATCH_MISMATCH, JOURNAL_UNUSABLE.
        """
        work = asyncio.ensure_future(self._work())
        try:
            while (event := await self._events.get()) is not None:
                yield event
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _work(self) -> None:
        try:
            await self._persist(self._probe_once)
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(self._persist(self._watch_once))
                parts = [group.create_task(self._persist(part)) for part in (self._submit_once, self._fetch_once)]
                await asyncio.wait(parts)
                watching.cancel()
        except* MaifsError as errors:
            raise _first(errors) from None
        finally:
            await self._events.put(None)

    async def _persist(self, attempt: Callable[[], Awaitable[bool]]) -> None:
        """Tries until it says that all is done."""
        while True:
            try:
                if await attempt():
                    return
            except grpc.aio.AioRpcError as error:
                known = from_rpc_error(error, f"The coordinator at {self._address}")
                if known.reason not in _TRANSIENT:
                    raise known from error
                if time.monotonic() - self._last_answer > PATIENCE_S:
                    raise _lost(self._address, known) from error
            await asyncio.sleep(_PAUSE_S)

    async def _probe_once(self) -> bool:
        """Asks for batches at all by a call that, other than a stream, tells a refusal from a broken connection."""
        request = batch_pb2.GetBatchRequest(batch_id=self._request.batch_id)
        try:
            await self._stub.GetBatch(request, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                message = f"The coordinator at {self._address} takes no batches."
                raise MaifsError(Reason.NO_JOURNAL, message) from error
            if from_rpc_error(error, "").reason is not Reason.UNKNOWN_BATCH:
                raise
        return True

    async def _submit_once(self) -> bool:
        begin = batch_pb2.BeginBatch(
            batch_id=self._request.batch_id,
            title=self._request.title,
            options=self._request.options,
            retry_failed=True,
            retry_ended=self._request.fresh,
        )
        async for event in self._submit.run(begin):
            self._last_answer = time.monotonic()
            if isinstance(event, batch_pb2.Batch):
                if self._cursor < 0:
                    self._cursor = event.last_sequence
                self._begun.set()
            elif isinstance(event, Known):
                self._register(event)
            elif isinstance(event, Refused):
                await self._finish(Failed(event.index, event.error))
            elif isinstance(event, Sent):
                await self._events.put(event)
            else:
                self._early.pop(event.key, None)  # wanted again: what was heard of its end is of an earlier try
        self.submitted = True
        return True

    def _register(self, event: Known) -> None:
        key = (event.item.name, event.item.sha256)
        self._indexes.setdefault(key, set()).add(event.index)
        self._by_position.setdefault(event.item.position, set()).add(event.index)
        ended = self._early.get(key)
        if ended is None and event.item.state in _ENDED:
            self.known.add(event.index)
            ended = event.item
        if ended is not None:
            self._note_end(event.index, ended)

    async def _watch_once(self) -> bool:
        """Follows the batch until it is cancelled."""
        await self._begun.wait()
        while True:
            request = batch_pb2.WatchBatchRequest(
                batch_id=self._request.batch_id, after_sequence=self._cursor, skip_reports=True, progress=True
            )
            async for response in self._stub.WatchBatch(request, metadata=outgoing_metadata()):
                self._last_answer = time.monotonic()
                await self._take(response)
            await asyncio.sleep(_PAUSE_S)  # another client sealed the batch before we had offered everything

    async def _take(self, response: batch_pb2.WatchBatchResponse) -> None:
        if response.HasField("progress"):
            await self._progress(response.progress)
        elif response.HasField("ended"):
            item = response.ended.item
            key = (item.name, item.sha256)
            self._early[key] = item
            for index in self._indexes.get(key, ()):
                self._note_end(index, item)
            self._cursor = item.sequence

    async def _progress(self, progress: batch_pb2.ItemProgress) -> None:
        for index in self._by_position.get(progress.position, ()):
            if progress.event.HasField("tool_result"):
                await self._events.put(ToolEnded(index, progress.event.tool_result))
            elif progress.event.HasField("verdict_reached"):
                await self._events.put(VerdictKnown(index, progress.event.verdict_reached))

    def _note_end(self, index: int, item: batch_pb2.BatchItem) -> None:
        self._ends.append((index, item))
        self._changed.set()

    async def _fetch_once(self) -> bool:
        """Fetches the report of each picture that has ended, until all have."""
        while self._unfinished:
            while self._ends:
                await self._end(*self._ends[0])
                self._ends.popleft()  # only now: a call that broke is made again
            self._changed.clear()
            if self._unfinished:
                await self._changed.wait()
        return True

    async def _end(self, index: int, item: batch_pb2.BatchItem) -> None:
        if index not in self._unfinished:
            return
        if item.state != _REPORTED:
            await self._finish(Failed(index, from_status(item.error)))
            return
        request = batch_pb2.GetReportRequest(batch_id=self._request.batch_id, position=item.position)
        response = await self._stub.GetReport(request, metadata=outgoing_metadata())
        if not response.HasField("report"):
            return  # somebody asked for it anew meanwhile: it will end again
        await self._finish(Reported(index, response.report))

    async def _finish(self, event: Reported | Failed) -> None:
        if event.index in self._unfinished:
            self._unfinished.discard(event.index)
            self._changed.set()
            await self._events.put(event)


def _first(errors: BaseExceptionGroup[MaifsError]) -> MaifsError:
    error = errors.exceptions[0]
    return error if isinstance(error, MaifsError) else _first(error)


def _lost(address: str, error: MaifsError) -> MaifsError:
    return MaifsError(
        Reason.BACKEND_UNAVAILABLE,
        f"The coordinator at {address} was lost and did not come back: {error.message}",
        "Run the same command again; what is done is kept.",
    )
