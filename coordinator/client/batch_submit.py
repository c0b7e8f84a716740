"""The client's side of SubmitBatch: offers pictures, sends those that are wanted, a few at a time."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc

from coordinator.client.pictures import FilePicture, Picture
from coordinator.client.stream import Sent
from coordinator.client.upload import Opened, open_picture, read_chunk
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.channel import CHUNK_BYTES
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_status

Request = batch_pb2.SubmitBatchRequest
Response = batch_pb2.SubmitBatchResponse

UPLOADS = 4
"""Pictures that are read and sent at a time."""
MAX_TRIES = 6
"""Times that a picture is offered when the coordinator's disk is full; a full queue is waited for without limit."""
_WAIT_FOR = {Reason.QUEUE_FULL, Reason.QUOTA_EXCEEDED}
_LONGEST_NAME = 4096


@dataclass(frozen=True)
class Known:
    """The batch has the picture."""

    index: int
    item: batch_pb2.BatchItem


@dataclass(frozen=True)
class Wanted:
    """The batch does not have the picture, or is to try it again."""

    key: tuple[str, bytes]


@dataclass(frozen=True, eq=False)
class Refused:
    """The picture will not be in the batch."""

    index: int
    error: MaifsError


SubmitEvent = batch_pb2.Batch | Known | Wanted | Refused | Sent


class BatchSubmit:
    """Submits a list of pictures. `run` may be called again after it broke: what was answered is not offered again."""

    def __init__(
        self, stub: batch_pb2_grpc.BatchServiceAsyncStub, pictures: Sequence[Picture], max_image_bytes: int
    ) -> None:
        self._stub, self._pictures, self._max_image_bytes = stub, pictures, max_image_bytes
        self._left = deque(range(len(pictures)))
        self._answers: dict[str, asyncio.Queue[Response]] = {}
        self._writing = asyncio.Lock()
        self._item_ids = 0
        self._events: asyncio.Queue[SubmitEvent] = asyncio.Queue(maxsize=2 * UPLOADS)

    async def run(self, begin: batch_pb2.BeginBatch) -> AsyncGenerator[SubmitEvent, None]:
        """Begins the batch, offers everything, seals it.

        Raises:
            grpc.aio.AioRpcError: when the call broke.
        """
        call: Any = self._stub.SubmitBatch(metadata=outgoing_metadata())
        self._answers.clear()
        self._events = asyncio.Queue(maxsize=2 * UPLOADS)
        begun = asyncio.Event()
        workers = [asyncio.ensure_future(self._submit_all(call, begun)) for _ in range(UPLOADS)]
        sealing = asyncio.ensure_future(self._seal_after(call, workers))
        reading = asyncio.ensure_future(self._read(call, begun))
        try:
            # A write on a call that has ended fails for no reason of its own: the reader knows the reason.
            with contextlib.suppress(asyncio.InvalidStateError, grpc.aio.UsageError, grpc.aio.AioRpcError):
                await self._write(call, Request(begin=begin))
            while not reading.done() or not self._events.empty():
                taking = asyncio.ensure_future(self._events.get())
                await asyncio.wait({taking, reading}, return_when=asyncio.FIRST_COMPLETED)
                if taking.done():
                    yield taking.result()
                else:
                    taking.cancel()
            reading.result()
        finally:
            call.cancel()
            for task in (*workers, sealing, reading):
                task.cancel()
            await asyncio.gather(*workers, sealing, reading, return_exceptions=True)

    async def _read(self, call: Any, begun: asyncio.Event) -> None:
        async for response in call:
            kind = response.WhichOneof("event")
            if kind == "begun":
                await self._events.put(response.begun)
                begun.set()
            elif response.item_id in self._answers:
                self._answers[response.item_id].put_nowait(response)

    async def _seal_after(self, call: Any, workers: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.gather(*workers)
        async with self._writing:
            await call.write(Request(seal=batch_pb2.SealBatch()))
            await call.done_writing()

    async def _submit_all(self, call: Any, begun: asyncio.Event) -> None:
        await begun.wait()
        while self._left:
            index = self._left.popleft()
            try:
                await self._submit(call, index)
            except MaifsError as error:
                await self._events.put(Refused(index, error))
            except BaseException:
                self._left.append(index)  # the call broke: the next one offers it again
                raise

    async def _submit(self, call: Any, index: int) -> None:
        picture = self._pictures[index]
        opened = await asyncio.to_thread(open_picture, picture, self._max_image_bytes)
        try:
            tries = 1
            while True:
                answer = await self._offer(call, index, opened)
                if not answer.HasField("refused"):
                    item = answer.known if answer.HasField("known") else answer.accepted
                    await self._events.put(Sent(index))
                    await self._events.put(Known(index, item))
                    return
                error = from_status(answer.refused)
                if error.retry_after_s <= 0 or (error.reason not in _WAIT_FOR and tries >= MAX_TRIES):
                    raise error
                tries += 1
                await asyncio.sleep(error.retry_after_s)
        finally:
            opened.file.close()

    async def _offer(self, call: Any, index: int, opened: Opened) -> Response:
        """Offers a picture and sends it where it is wanted; returns the last answer."""
        self._item_ids += 1
        item_id, name = str(self._item_ids), item_name(self._pictures[index])
        answers = self._answers[item_id] = asyncio.Queue()
        try:
            offer = batch_pb2.OfferItem(name=name, sha256=opened.sha256, size_bytes=opened.size_bytes)
            await self._write(call, Request(item_id=item_id, offer=offer))
            answer = await answers.get()
            if answer.HasField("wanted"):
                await self._events.put(Wanted((name, opened.sha256)))
                await self._send(call, item_id, index, opened, answers)
                answer = await answers.get()
            return answer
        finally:
            del self._answers[item_id]

    async def _send(
        self, call: Any, item_id: str, index: int, opened: Opened, answers: asyncio.Queue[Response]
    ) -> None:
        opened.file.seek(0)
        offset, name = 0, self._pictures[index].name
        try:
            while offset < opened.size_bytes and answers.empty():
                data = await asyncio.to_thread(
                    read_chunk, opened.file, name, min(CHUNK_BYTES, opened.size_bytes - offset)
                )
                chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data)
                await self._write(call, Request(item_id=item_id, chunk=chunk))
                offset += len(data)
        except MaifsError:
            await self._write(call, Request(item_id=item_id, cancel=image_pb2.CancelItem()))
            raise
        if answers.empty():
            await self._write(call, Request(item_id=item_id, end=image_pb2.EndItem()))

    async def _write(self, call: Any, request: Request) -> None:
        async with self._writing:
            await call.write(request)


def item_name(picture: Picture) -> str:
    """The name of a picture within its batch: of a file its absolute path, bytes that are no UTF-8 in hexadecimal."""
    name = str(picture.path.absolute()) if isinstance(picture, FilePicture) else picture.name
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")[-_LONGEST_NAME:]
