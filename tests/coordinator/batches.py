"""A client of BatchService for tests, and what it sends."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import grpc

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc, coordinator_pb2

Request = batch_pb2.SubmitBatchRequest
Response = batch_pb2.SubmitBatchResponse

RULES_ONLY = batch_pb2.BatchOptions(analyze=coordinator_pb2.AnalyzeOptions(skip_llm=True))


def digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def begin(batch_id: str, options: batch_pb2.BatchOptions = RULES_ONLY, **fields: Any) -> Request:
    return Request(begin=batch_pb2.BeginBatch(batch_id=batch_id, options=options, **fields))


def offer(name: str, data: bytes, item_id: str = "", **fields: Any) -> Request:
    values: dict[str, Any] = {"name": name, "sha256": digest(data), "size_bytes": len(data)} | fields
    return Request(item_id=item_id or name, offer=batch_pb2.OfferItem(**values))


def chunk(item_id: str, data: bytes, offset: int = 0) -> Request:
    return Request(item_id=item_id, chunk=image_pb2.ItemChunk(offset_bytes=offset, data=data))


def end(item_id: str) -> Request:
    return Request(item_id=item_id, end=image_pb2.EndItem())


SEAL = Request(seal=batch_pb2.SealBatch())


class Submitter:
    """One call of SubmitBatch, a message at a time."""

    def __init__(self, channel: grpc.aio.Channel | None) -> None:
        assert channel
        self.call: Any = batch_pb2_grpc.BatchServiceStub(channel).SubmitBatch()

    async def ask(self, *requests: Request) -> Response:
        """Sends requests and reads one response."""
        for request in requests:
            await self.call.write(request)
        response = await self.call.read()
        if not isinstance(response, Response):
            code, details = await self.call.code(), await self.call.details()
            raise AssertionError(f"the call ended: {code} {details}")
        return response

    async def send(self, name: str, data: bytes, item_id: str = "") -> Response:
        """Offers an item and sends its bytes where they are wanted; returns the last answer."""
        item_id = item_id or name
        response = await self.ask(offer(name, data, item_id))
        if response.WhichOneof("event") != "wanted":
            return response
        return await self.ask(chunk(item_id, data), end(item_id))


async def submit(
    channel: grpc.aio.Channel | None, batch_id: str, pictures: Mapping[str, bytes], *, seal: bool = True, **fields: Any
) -> dict[str, str]:
    """Submits pictures by name; returns what each was answered."""
    submitter = Submitter(channel)
    assert (await submitter.ask(begin(batch_id, **fields))).HasField("begun")
    answers = {}
    for name, data in pictures.items():
        answers[name] = str((await submitter.send(name, data)).WhichOneof("event"))
    if seal:
        assert (await submitter.ask(SEAL)).HasField("sealed")
    await submitter.call.done_writing()
    return answers


async def watch(
    channel: grpc.aio.Channel | None, batch_id: str, timeout_s: float = 20, **fields: Any
) -> list[batch_pb2.WatchBatchResponse]:
    """All responses of WatchBatch."""
    assert channel
    stub: Any = batch_pb2_grpc.BatchServiceStub(channel)
    request = batch_pb2.WatchBatchRequest(batch_id=batch_id, **fields)
    return [response async for response in stub.WatchBatch(request, timeout=timeout_s)]


def ended(responses: Sequence[batch_pb2.WatchBatchResponse]) -> list[batch_pb2.ItemEnded]:
    return [response.ended for response in responses if response.HasField("ended")]


async def until(check: Callable[[], Awaitable[bool]], timeout_s: float = 15.0) -> None:
    """Returns when the check is true."""
    async with asyncio.timeout(timeout_s):
        while not await check():  # noqa: ASYNC110 - what is checked is in another process or on disk
            await asyncio.sleep(0.02)
