"""The coordinator's batches, as the page shows them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc

from coordinator.client import Report
from coordinator.client.pictures import FilePicture
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error

T = TypeVar("T")

PAGE_SIZE = 200
"""Batches, or items of one, on a page."""
_TIMEOUT_S = 10.0
_PAUSE_S = 1.0


@dataclass(frozen=True)
class BatchPage:
    """A batch and some of its items."""

    batch: batch_pb2.Batch
    items: list[batch_pb2.BatchItem]
    next_page_token: str


class Batches:
    """Reads of the journal."""

    def __init__(self, channel: grpc.aio.Channel, address: str) -> None:
        """Uses a channel to the coordinator; the address is for messages."""
        self._stub: Any = batch_pb2_grpc.BatchServiceStub(channel)
        self._address = address

    async def all(self) -> list[batch_pb2.Batch] | None:
        """The newest batches; None where the coordinator keeps no journal.

        Raises:
            MaifsError: the coordinator was lost.
        """
        try:
            answer = await self._call(self._stub.ListBatches, batch_pb2.ListBatchesRequest(page_size=PAGE_SIZE))
        except MaifsError as error:
            if error.reason is Reason.NO_JOURNAL:
                return None
            raise
        return list(answer.batches)

    async def page(self, batch_id: str, page_token: str) -> BatchPage:
        """A batch with a page of its items.

        Raises:
            MaifsError: UNKNOWN_BATCH, or the coordinator was lost.
        """
        request = batch_pb2.ListBatchItemsRequest(batch_id=batch_id, page_size=PAGE_SIZE, page_token=page_token)
        batch, items = await asyncio.gather(
            self._call(self._stub.GetBatch, batch_pb2.GetBatchRequest(batch_id=batch_id)),
            self._call(self._stub.ListBatchItems, request),
        )
        return BatchPage(batch.batch, list(items.items), items.next_page_token)

    async def report(self, batch_id: str, position: int) -> Report:
        """A stored report. The picture is shown when a file of the item's name still has the same content.

        Raises:
            MaifsError: UNKNOWN_REPORT, or the item's error.
        """
        request = batch_pb2.GetReportRequest(batch_id=batch_id, position=position)
        answer = await self._call(self._stub.GetReport, request)
        if not answer.HasField("report"):
            raise MaifsError(Reason.UNKNOWN_REPORT, f"Item {position} of {batch_id} has no report.")
        return Report(answer.report, FilePicture(Path(answer.item.name)))

    async def changes(self, batch_id: str) -> AsyncGenerator[None, None]:
        """Something when items have ended, at most once a second; ends with the batch.

        Raises:
            MaifsError: UNKNOWN_BATCH, or the coordinator was lost.
        """
        found = await self._call(self._stub.GetBatch, batch_pb2.GetBatchRequest(batch_id=batch_id))
        request = batch_pb2.WatchBatchRequest(
            batch_id=batch_id, after_sequence=found.batch.last_sequence, skip_reports=True
        )
        call = self._stub.WatchBatch(request, metadata=outgoing_metadata())
        clock, last = asyncio.get_running_loop().time, 0.0
        try:
            async for _ in call:
                if clock() - last >= _PAUSE_S:
                    last = clock()
                    yield
            yield
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, f"The coordinator at {self._address}") from error
        finally:
            call.cancel()

    async def _call(self, method: Any, request: Any) -> Any:
        try:
            work: Awaitable[Any] = method(request, timeout=_TIMEOUT_S, metadata=outgoing_metadata())
            return await work
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise MaifsError(Reason.NO_JOURNAL, "The coordinator keeps no batches.") from error
            raise from_rpc_error(error, f"The coordinator at {self._address}") from error
