"""Items on a bidirectional stream: assembly from steps, admission, and exactly one terminal event for each.

Both AnalyzeStream methods (vision, coordinator) speak this protocol; see maifs.common.v1.BeginItem for the valid
sequences. The request messages differ in type only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from maifs.common.v1 import image_pb2
from serving.channel import INLINE_BYTES
from serving.encoded import Encoded
from serving.errors import MaifsError, Reason
from serving.requests import current_request_id

_log = logging.getLogger(__name__)

R = TypeVar("R")
RESPONSE_BUFFER = 32
"""Responses that wait for a slow reader before the work behind them is held up."""


@dataclass(frozen=True)
class ItemLimits:
    """What one stream may do."""

    max_image_bytes: int
    max_open_items: int


class ByteBudget:
    """Encoded bytes that a service holds over all its calls; more is refused at once."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Takes a share.

        Raises:
            MaifsError: QUEUE_FULL with a time to wait.
        """
        if self.held_bytes + size_bytes > self.limit_bytes:
            raise MaifsError(
                Reason.QUEUE_FULL,
                f"The service holds {self.held_bytes:,} bytes of pictures; {size_bytes:,} more would pass its limit of "
                f"{self.limit_bytes:,}.",
                "Send the item again after the delay.",
                retry_after_s=1.0,
            )
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Gives a share back."""
        self.held_bytes -= size_bytes


class Budget(Protocol):
    """Room for encoded bytes."""

    def reserve(self, size_bytes: int) -> None:
        """Takes room. Raises MaifsError: QUEUE_FULL."""

    def release(self, size_bytes: int) -> None:
        """Gives room back."""


@dataclass(frozen=True)
class Item:
    """A complete encoded picture."""

    item_id: str
    encoded: Encoded
    file_name: str
    opening: Any
    """The message that began the item, for the fields that only one of the services has."""

    @property
    def data(self) -> bytes:
        """The file in one piece."""
        return self.encoded.whole()


class StepMessage(Protocol):
    """AnalyzeStreamRequest of either service."""

    @property
    def item_id(self) -> str:
        """Item."""

    @property
    def begin(self) -> image_pb2.BeginItem:
        """Opens."""

    @property
    def chunk(self) -> image_pb2.ItemChunk:
        """Adds."""

    def WhichOneof(self, oneof_group: Any, /) -> Any:  # noqa: N802 - protobuf's name
        """Which step it is."""


@dataclass(frozen=True)
class ItemHandlers(Generic[R]):
    """What differs between the services."""

    accepted: Callable[[str, image_pb2.ItemAccepted], R]
    """Makes the `accepted` response of an item id."""
    failed: Callable[[str, MaifsError], R]
    """Makes the terminal error response."""
    process: Callable[[Item], AsyncGenerator[R, None]]
    """Yields the item's responses, the last one terminal; raises MaifsError instead of a terminal response."""
    is_terminal: Callable[[R], bool]
    """Whether a response ends its item."""
    queue_position: Callable[[], int]
    """Items that wait before a new one."""


def check_digest(file: Encoded, sha256: bytes) -> None:
    """Compares a file with the digest that its sender announced.

    Raises:
        MaifsError: INVALID_REQUEST for a digest that is not 32 bytes, SHA256_MISMATCH for another file.
    """
    if not sha256:
        return
    if len(sha256) != 32:
        raise MaifsError(Reason.INVALID_REQUEST, f"sha256 has {len(sha256)} bytes; it must have 32 (binary, not hex).")
    actual = file.sha256()
    if actual != sha256:
        raise MaifsError(
            Reason.SHA256_MISMATCH,
            f"The bytes received have SHA-256 {actual.hex()[:16]}…, announced was {sha256.hex()[:16]}….",
            "The file changed or was damaged on the way; send it again.",
        )


class _OpenItem:
    """An item between its first step and its terminal event."""

    def __init__(self, opening: StepMessage, size_bytes: int) -> None:
        self.opening = opening
        self.size_bytes = size_bytes
        self.encoded = Encoded()
        self.task: asyncio.Task[None] | None = None
        """Set once the bytes are complete and the work has begun."""


class ItemStream(Generic[R]):
    """One call of AnalyzeStream."""

    def __init__(self, limits: ItemLimits, budget: Budget, handlers: ItemHandlers[R]) -> None:
        self._limits, self._budget, self._handlers = limits, budget, handlers
        self._open: dict[str, _OpenItem] = {}
        self._ended: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._responses: asyncio.Queue[R | None] = asyncio.Queue(RESPONSE_BUFFER)

    async def run(self, requests: AsyncIterator[StepMessage]) -> AsyncGenerator[R, None]:
        """Reads steps and yields responses, concurrently; ends when all items have ended after the half-close."""
        reader = asyncio.ensure_future(self._read(requests))
        try:
            while (response := await self._responses.get()) is not None:
                yield response
            await reader
        finally:
            reader.cancel()
            for task in self._tasks:
                task.cancel()
            for item in self._open.values():
                self._budget.release(item.size_bytes)
            self._open.clear()

    async def _read(self, requests: AsyncIterator[StepMessage]) -> None:
        try:
            async for message in requests:
                try:
                    await self._step(message)
                except MaifsError as error:
                    await self._fail(message.item_id, error)
            await self._finish()
        except BaseException:
            if self._responses.full():
                self._responses.get_nowait()
            self._responses.put_nowait(None)  # the call is over: wake `run`, which then raises what is raised here
            raise

    async def _finish(self) -> None:
        for item_id, item in list(self._open.items()):
            if item.task is None:
                error = MaifsError(
                    Reason.ITEM_INCOMPLETE,
                    f"The stream was closed after {len(item.encoded):,} of {item.size_bytes:,} bytes, without `end`.",
                )
                await self._fail(item_id, error)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._responses.put(None)

    async def _step(self, message: StepMessage) -> None:
        item_id, step = message.item_id, message.WhichOneof("step")
        if step == "begin":
            await self._begin(message)
        elif item_id in self._ended:
            return  # sent before the client could know that the item had ended
        elif item_id not in self._open:
            raise MaifsError(Reason.UNKNOWN_ITEM, f"{step or 'A message without a step'} came before `begin`.")
        elif step == "chunk":
            self._chunk(self._open[item_id], message.chunk)
        elif step == "end":
            self._end(item_id, self._open[item_id])
        elif step == "cancel":
            raise MaifsError(Reason.CANCELLED, "The client cancelled the item.")
        else:
            raise MaifsError(Reason.INVALID_REQUEST, "The message has no step.", "Set begin, chunk, end or cancel.")

    async def _begin(self, message: StepMessage) -> None:
        item_id, begin = message.item_id, message.begin
        if not 1 <= len(item_id) <= 128:
            raise MaifsError(Reason.INVALID_REQUEST, f"item_id has {len(item_id)} characters; 1 to 128 are allowed.")
        if item_id in self._open or item_id in self._ended:
            raise MaifsError(Reason.DUPLICATE_ITEM, "This item_id was already used on this stream.", "Use fresh ids.")
        if len(self._open) >= self._limits.max_open_items:
            raise MaifsError(
                Reason.TOO_MANY_OPEN_ITEMS,
                f"{len(self._open)} items of this stream are open, the limit.",
                "Wait for a terminal event before you begin another.",
                retry_after_s=0.5,
            )
        self._check_size(begin.size_bytes)
        self._budget.reserve(begin.size_bytes)
        item = self._open[item_id] = _OpenItem(message, begin.size_bytes)
        accepted = image_pb2.ItemAccepted(
            queue_position_count=self._handlers.queue_position(),
            credit_items_count=self._limits.max_open_items - len(self._open),
        )
        await self._responses.put(self._handlers.accepted(item_id, accepted))
        self._append(item, begin.data)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes < 1:
            raise MaifsError(Reason.EMPTY_FILE, f"size_bytes is {size_bytes}; a picture has at least one byte.")
        if size_bytes > self._limits.max_image_bytes:
            raise MaifsError(
                Reason.IMAGE_TOO_LARGE,
                f"The file has {size_bytes:,} bytes; the limit is {self._limits.max_image_bytes:,}.",
            )

    def _chunk(self, item: _OpenItem, chunk: image_pb2.ItemChunk) -> None:
        if item.task:
            raise MaifsError(Reason.CHUNK_AFTER_END, "A chunk came after `end`; the item was given up.")
        if chunk.offset_bytes != len(item.encoded):
            raise MaifsError(
                Reason.CHUNK_OFFSET,
                f"A chunk for offset {chunk.offset_bytes:,} came when {len(item.encoded):,} was next.",
            )
        self._append(item, chunk.data)

    def _append(self, item: _OpenItem, data: bytes) -> None:
        if len(data) > INLINE_BYTES:
            raise MaifsError(
                Reason.INVALID_REQUEST, f"A message carries {len(data):,} bytes; at most {INLINE_BYTES:,}."
            )
        if len(item.encoded) + len(data) > item.size_bytes:
            raise MaifsError(Reason.SIZE_MISMATCH, f"More bytes came than the {item.size_bytes:,} announced.")
        item.encoded.add(data)

    def _end(self, item_id: str, item: _OpenItem) -> None:
        if item.task:
            raise MaifsError(Reason.CHUNK_AFTER_END, "`end` came twice; the item was given up.")
        if len(item.encoded) != item.size_bytes:
            raise MaifsError(
                Reason.SIZE_MISMATCH, f"`end` came after {len(item.encoded):,} of {item.size_bytes:,} announced bytes."
            )
        item.task = asyncio.ensure_future(self._work(item_id, item))
        self._tasks.add(item.task)
        item.task.add_done_callback(self._tasks.discard)

    async def _work(self, item_id: str, item: _OpenItem) -> None:
        begin = item.opening.begin
        try:
            if begin.sha256:
                await asyncio.to_thread(check_digest, item.encoded, begin.sha256)
            work = Item(item_id, item.encoded, begin.file_name[:255], item.opening)
            async with aclosing(self._handlers.process(work)) as responses:
                async for response in responses:
                    if self._handlers.is_terminal(response):
                        self._close(item_id)  # before it waits for room: no second terminal event can overtake it
                    await self._responses.put(response)
        except MaifsError as error:
            await self._fail(item_id, error)
        except Exception as error:  # noqa: BLE001 - one item's fault must not end its neighbours
            _log.exception("item failed", extra={"item_id": item_id, "request_id": current_request_id.get()})
            failure = MaifsError(Reason.INTERNAL, f"The service failed unexpectedly: {type(error).__name__}.")
            await self._fail(item_id, failure)

    async def _fail(self, item_id: str, error: MaifsError) -> None:
        self._close(item_id)
        await self._responses.put(self._handlers.failed(item_id, error))

    def _close(self, item_id: str) -> None:
        """Ends an item's bookkeeping, and its work when that is still going on."""
        self._ended.add(item_id)
        item = self._open.pop(item_id, None)
        if item is None:
            return
        self._budget.release(item.size_bytes)
        if item.task and item.task is not asyncio.current_task():
            item.task.cancel()


async def gather_bytes(image: image_pb2.Image, max_image_bytes: int) -> bytes:
    """The file of a unary request, checked.

    Raises:
        MaifsError: EMPTY_FILE, IMAGE_TOO_LARGE, SHA256_MISMATCH.
    """
    if not image.data:
        raise MaifsError(Reason.EMPTY_FILE, "image.data is empty.", "Send the image file's bytes.")
    limit = min(max_image_bytes, INLINE_BYTES)
    if len(image.data) > limit:
        raise MaifsError(
            Reason.IMAGE_TOO_LARGE,
            f"The file has {len(image.data):,} bytes; a single message takes {limit:,}.",
            "Use AnalyzeStream, which takes larger files in chunks.",
        )
    data = image.data
    if image.sha256:
        await asyncio.to_thread(check_digest, Encoded(data), image.sha256)
    return data
