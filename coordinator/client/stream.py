"""Many pictures over one stream: a bounded number of open items, every picture exactly one outcome."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import grpc

from coordinator.client.pictures import Picture
from coordinator.client.upload import Step, steps
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc, report_pb2
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error, from_status

_Call = grpc.aio.StreamStreamCall[Step, coordinator_pb2.AnalyzeStreamResponse]
_Task = asyncio.Task[MaifsError | None]

MAX_TRIES = 6
"""Times that a picture is sent when the coordinator is full; then it is an error of that picture."""


@dataclass(frozen=True)
class Sent:
    """All bytes of a picture are on their way."""

    index: int


@dataclass(frozen=True, eq=False)
class ToolEnded:
    """One tool ended."""

    index: int
    result: finding_pb2.ToolResult


@dataclass(frozen=True, eq=False)
class VerdictKnown:
    """The verdict stands; the explanation is being written."""

    index: int
    verdict: coordinator_pb2.VerdictReached


@dataclass(frozen=True, eq=False)
class Reported:
    """Terminal: the report."""

    index: int
    report: report_pb2.Report


@dataclass(frozen=True, eq=False)
class Failed:
    """Terminal: no report."""

    index: int
    error: MaifsError


Event = Sent | ToolEnded | VerdictKnown | Reported | Failed


@dataclass(frozen=True)
class RunOptions:
    """How to run."""

    concurrency: int
    max_image_bytes: int
    analyze: coordinator_pb2.AnalyzeOptions = field(default_factory=coordinator_pb2.AnalyzeOptions)


@dataclass(frozen=True)
class _Attempt:
    index: int
    number: int

    @property
    def item_id(self) -> str:
        """A refused item's id may not be used again on the same stream."""
        return f"{self.index}.{self.number}"


class StreamRun:
    """One call of AnalyzeStream. A picture's index is its place in the input, from 0."""

    def __init__(
        self,
        stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub,
        address: str,
        pictures: Sequence[Picture] | AsyncIterator[Picture],
        options: RunOptions,
    ) -> None:
        """Takes the pictures; an iterator is asked for the next one only when there is room for it."""
        self._stub, self._address, self._options = stub, address, options
        self._given = pictures if isinstance(pictures, Sequence) else ()
        self._input = _each(pictures) if isinstance(pictures, Sequence) else pictures
        self._all_drawn = False
        self._drawn_count = 0
        self._unfinished: dict[int, Picture] = {}
        self._waiting: deque[_Attempt] = deque()
        self._open: dict[str, _Attempt] = {}
        self._slots = asyncio.Semaphore(options.concurrency)
        self._events: asyncio.Queue[Event | None] = asyncio.Queue(maxsize=2 * options.concurrency)
        self._retries: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()

    async def events(self) -> AsyncGenerator[Event, None]:
        """Everything that happens; exactly one Reported or Failed for each picture drawn, whatever becomes of the call.

        Raises:
            MaifsError: when the call was lost before an iterator came to its end; what it still holds was not drawn.
                Of a sequence every picture is drawn.
        """
        call = self._stub.AnalyzeStream(metadata=outgoing_metadata())
        receiver, *others = (
            asyncio.ensure_future(self._guard(call, work))
            for work in (self._receive(call), self._send(call), self._draw())
        )
        closer = asyncio.ensure_future(self._close_after(receiver, others))
        try:
            while (event := await self._events.get()) is not None:
                yield event
            reason = await closer or _ended_early(self._address)
            for index in (*sorted(self._unfinished), *range(self._drawn_count, len(self._given))):
                yield Failed(index, reason)
            if not self._all_drawn and not self._given:
                raise reason
        finally:
            call.cancel()
            for task in (receiver, *others, closer, *self._retries):
                task.cancel()
            await asyncio.gather(receiver, *others, closer, *self._retries, return_exceptions=True)

    async def _close_after(self, receiver: _Task, others: Sequence[_Task]) -> MaifsError | None:
        """Waits for the end of the call and says why it ended; None after an orderly end."""
        try:
            await asyncio.wait({receiver})
            for task in others:
                task.cancel()
            await asyncio.wait(others)
        finally:
            await self._events.put(None)
        for task in (receiver, *others):
            if not task.cancelled() and (error := task.result()) is not None:
                return error
        return None

    async def _guard(self, call: _Call, work: Coroutine[Any, Any, None]) -> MaifsError | None:
        try:
            await work
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error, f"The coordinator at {self._address}")
        except (asyncio.InvalidStateError, grpc.aio.UsageError):
            return None  # the call ended under the sender; the receiver knows why
        except BaseException:
            call.cancel()
            raise
        return None

    async def _draw(self) -> None:
        """Takes pictures from the input; each holds a slot from here to its end, also while it waits for a retry."""
        await self._slots.acquire()
        async for picture in self._input:
            self._unfinished[self._drawn_count] = picture
            self._waiting.append(_Attempt(self._drawn_count, 1))
            self._drawn_count += 1
            self._changed.set()
            await self._slots.acquire()
        self._all_drawn = True
        self._changed.set()

    async def _send(self, call: _Call) -> None:
        while self._unfinished or not self._all_drawn:
            if self._waiting:
                await self._send_item(call, self._waiting.popleft())
            else:
                self._changed.clear()
                await self._changed.wait()
        await call.done_writing()

    async def _send_item(self, call: _Call, attempt: _Attempt) -> None:
        picture, item_id = self._unfinished[attempt.index], attempt.item_id
        try:
            messages = steps(picture, item_id, self._options.analyze, self._options.max_image_bytes)
            async with aclosing(messages):
                async for message in messages:
                    if message.HasField("begin"):
                        self._open[item_id] = attempt
                    elif item_id not in self._open:
                        return  # the item has ended already: the rest of its bytes is not wanted
                    await call.write(message)
            await self._events.put(Sent(attempt.index))
        except MaifsError as error:
            if self._open.pop(item_id, None):
                await call.write(Step(item_id=item_id, cancel=image_pb2.CancelItem()))
            await self._finish(Failed(attempt.index, error))

    async def _receive(self, call: _Call) -> None:
        async for response in call:
            attempt = self._open.get(response.item_id)
            if attempt is not None:
                await self._take(attempt, response.event)

    async def _take(self, attempt: _Attempt, event: coordinator_pb2.ItemEvent) -> None:
        kind, index = event.WhichOneof("event"), attempt.index
        if kind == "tool_result":
            await self._events.put(ToolEnded(index, event.tool_result))
        elif kind == "verdict_reached":
            await self._events.put(VerdictKnown(index, event.verdict_reached))
        elif kind == "report":
            del self._open[attempt.item_id]
            await self._finish(Reported(index, event.report))
        elif kind == "error":
            del self._open[attempt.item_id]
            error = from_status(event.error)
            if error.retry_after_s > 0 and attempt.number < MAX_TRIES:
                self._retry(attempt, error.retry_after_s)
            else:
                await self._finish(Failed(index, error))

    async def _finish(self, event: Reported | Failed) -> None:
        del self._unfinished[event.index]
        await self._events.put(event)
        self._slots.release()
        self._changed.set()

    def _retry(self, attempt: _Attempt, delay_s: float) -> None:
        async def later() -> None:
            await asyncio.sleep(min(delay_s * 2 ** (attempt.number - 1), 30.0))
            self._waiting.append(_Attempt(attempt.index, attempt.number + 1))
            self._changed.set()

        task = asyncio.ensure_future(later())
        self._retries.add(task)
        task.add_done_callback(self._retries.discard)


async def _each(pictures: Sequence[Picture]) -> AsyncIterator[Picture]:
    for picture in pictures:
        yield picture


def _ended_early(address: str) -> MaifsError:
    return MaifsError(
        Reason.BACKEND_UNAVAILABLE,
        f"The coordinator at {address} ended the call before this picture was done.",
        "Run the same command again.",
    )
