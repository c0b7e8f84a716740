"""Where the commands read batches and reports: a coordinator, or the folder of an `analyze --out`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Protocol

import grpc
import typer

from coordinator.cli.status import address_of
from coordinator.client.connection import connect
from coordinator.journal.view import stored_journal
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error

STATE_FOLDER = ".maifs"
"""Where the journal of services of our own lies, below the folder of the reports."""

ReportsFolder = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="DIR",
        help="Folder of an `analyze --out`: read the journal there, without a coordinator.",
    ),
]

_TIMEOUT_S = 10.0
_PAGE = 1000


class Journal(Protocol):
    """What can be read from either; all raise MaifsError."""

    async def list_batches(self, request: batch_pb2.ListBatchesRequest) -> batch_pb2.ListBatchesResponse:
        """A page of batches."""

    async def list_items(self, request: batch_pb2.ListBatchItemsRequest) -> batch_pb2.ListBatchItemsResponse:
        """A page of items."""

    async def get_report(self, request: batch_pb2.GetReportRequest) -> batch_pb2.GetReportResponse:
        """One report."""


class CoordinatorsJournal:
    """A coordinator's journal, by its calls."""

    def __init__(self, stub: batch_pb2_grpc.BatchServiceAsyncStub) -> None:
        self.stub: Any = stub
        """For what changes the journal, and to follow it."""

    async def list_batches(self, request: batch_pb2.ListBatchesRequest) -> batch_pb2.ListBatchesResponse:
        """See Journal."""
        answer: batch_pb2.ListBatchesResponse = await self._call(self.stub.ListBatches, request)
        return answer

    async def list_items(self, request: batch_pb2.ListBatchItemsRequest) -> batch_pb2.ListBatchItemsResponse:
        """See Journal."""
        answer: batch_pb2.ListBatchItemsResponse = await self._call(self.stub.ListBatchItems, request)
        return answer

    async def get_report(self, request: batch_pb2.GetReportRequest) -> batch_pb2.GetReportResponse:
        """See Journal."""
        answer: batch_pb2.GetReportResponse = await self._call(self.stub.GetReport, request)
        return answer

    async def cancel(self, batch_id: str) -> batch_pb2.Batch:
        """Ends what has not ended."""
        request = batch_pb2.CancelBatchRequest(batch_id=batch_id)
        answer: batch_pb2.CancelBatchResponse = await self._call(self.stub.CancelBatch, request)
        return answer.batch

    async def _call(self, method: Any, request: Any) -> Any:
        return await method(request, timeout=_TIMEOUT_S, metadata=outgoing_metadata())


@contextlib.asynccontextmanager
async def coordinators_journal(address: str | None) -> AsyncIterator[CoordinatorsJournal]:
    """The journal of a coordinator; errors of calls in the context become MaifsError."""
    where = address_of(address)
    async with connect(where) as channel:
        try:
            yield CoordinatorsJournal(batch_pb2_grpc.BatchServiceStub(channel))
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise MaifsError(Reason.NO_JOURNAL, f"The coordinator at {where} takes no batches.") from error
            raise _explained(from_rpc_error(error, f"The coordinator at {where}")) from error


@contextlib.asynccontextmanager
async def open_journal(address: str | None, folder: Path | None) -> AsyncIterator[Journal]:
    """The journal in a folder of reports, else that of a coordinator.

    Raises:
        MaifsError: INVALID_REQUEST when both are given; NO_JOURNAL, JOURNAL_UNUSABLE, or the coordinator's error.
    """
    if folder is None:
        async with coordinators_journal(address) as journal:
            yield journal
        return
    if address:
        raise MaifsError(Reason.INVALID_REQUEST, "Give --address or --from, not both.")
    async with stored_journal(folder / STATE_FOLDER) as stored:
        yield stored


def _explained(error: MaifsError) -> MaifsError:
    if error.reason is not Reason.BACKEND_UNAVAILABLE:
        return error
    advice = f"{error.advice} Batches of an `analyze --out DIR` that had services of its own: --from DIR.".strip()
    return MaifsError(error.reason, error.message, advice, retry_after_s=error.retry_after_s)


async def all_batches(journal: Journal) -> AsyncIterator[batch_pb2.Batch]:
    """The newest first."""
    token = ""
    while True:
        answer = await journal.list_batches(batch_pb2.ListBatchesRequest(page_size=_PAGE, page_token=token))
        for batch in answer.batches:
            yield batch
        if not (token := answer.next_page_token):
            return


async def find_batch(journal: Journal, name: str) -> batch_pb2.Batch:
    """The batch of this id, or the only one whose id begins so.

    Raises:
        MaifsError: UNKNOWN_BATCH; INVALID_REQUEST when several begin so.
    """
    found = [batch async for batch in all_batches(journal) if batch.batch_id.startswith(name)]
    exact = [batch for batch in found if batch.batch_id == name]
    if len(exact or found) == 1:
        return (exact or found)[0]
    if found:
        names = ", ".join(batch.batch_id for batch in found[:5])
        raise MaifsError(Reason.INVALID_REQUEST, f"{len(found)} batches begin with {name!r}: {names}.", "Say more.")
    raise MaifsError(
        Reason.UNKNOWN_BATCH, f"There is no batch {name!r}.", "`coordinator-cli batch list` shows those that there are."
    )


async def all_items(journal: Journal, batch_id: str) -> AsyncIterator[batch_pb2.BatchItem]:
    """By position."""
    token = ""
    while True:
        request = batch_pb2.ListBatchItemsRequest(batch_id=batch_id, page_size=_PAGE, page_token=token)
        answer = await journal.list_items(request)
        for item in answer.items:
            yield item
        if not (token := answer.next_page_token):
            return
