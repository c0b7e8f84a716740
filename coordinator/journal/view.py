"""What the journal has, as the contract tells it: the same to a client of the service and to one who opens the file."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from coordinator.journal.convert import to_batch, to_item
from coordinator.journal.ownership import EVERYBODYS, Scope
from coordinator.journal.queries import Reader
from coordinator.journal.records import BatchRecord, ItemRecord
from coordinator.journal.schema import DATABASE_NAME, open_stored
from maifs.coordinator.v1 import batch_pb2, report_pb2
from serving.errors import MaifsError, Reason

T = TypeVar("T")

DEFAULT_PAGE = 100
LARGEST_PAGE = 1000
_FIRST = 2**62


class Read(Protocol):
    """Runs a query in the thread that owns the reader."""

    def __call__(self, query: Callable[[Reader], T]) -> Awaitable[T]:
        """What the query returns."""


@dataclass(frozen=True)
class JournalView:
    """Answers the requests of BatchService that change nothing. All raise MaifsError as docs/errors.md says."""

    read: Read
    is_running: Callable[[int], bool] = lambda number: False
    """Whether an item, by its number, is under way."""
    problem: Callable[[], str] = lambda: ""
    """What holds up all batches; empty when nothing does."""
    scope: Scope = EVERYBODYS
    """Whose batches there are; requests and answers have the ids that the owner knows."""

    def to_batch(self, batch: BatchRecord) -> batch_pb2.Batch:
        """A record as a message."""
        return to_batch(batch, self.problem(), self.scope)

    async def batch(self, batch_id: str) -> BatchRecord:
        """The record of a batch."""
        stored = self.scope.stored(batch_id)
        return await self.read(lambda queries: queries.batch(stored))

    async def get_batch(self, request: batch_pb2.GetBatchRequest) -> batch_pb2.GetBatchResponse:
        """One batch."""
        return batch_pb2.GetBatchResponse(batch=self.to_batch(await self.batch(request.batch_id)))

    async def list_batches(self, request: batch_pb2.ListBatchesRequest) -> batch_pb2.ListBatchesResponse:
        """A page of batches."""
        size, before = _page_size(request.page_size), _page_token(request.page_token, _FIRST)
        found = await self.read(lambda queries: queries.batches(before, size + 1, self.scope.prefix))
        token = str(found[size - 1].number) if len(found) > size else ""
        return batch_pb2.ListBatchesResponse(
            batches=[self.to_batch(batch) for batch in found[:size]], next_page_token=token
        )

    async def list_items(self, request: batch_pb2.ListBatchItemsRequest) -> batch_pb2.ListBatchItemsResponse:
        """A page of items."""
        size, after = _page_size(request.page_size), _page_token(request.page_token, 0)
        stored = self.scope.stored(request.batch_id)
        found = await self.read(lambda queries: queries.items(stored, after, size + 1))
        items = [self._to_item(item) for item in found[:size]]
        token = str(items[-1].position) if len(found) > size else ""
        return batch_pb2.ListBatchItemsResponse(items=items, next_page_token=token)

    async def get_report(self, request: batch_pb2.GetReportRequest) -> batch_pb2.GetReportResponse:
        """One report."""
        batch_id, prefix = request.batch_id, self.scope.prefix
        if bool(request.position) == bool(request.sha256) or (request.position and not batch_id):
            raise MaifsError(Reason.INVALID_REQUEST, "Set batch_id with position, or sha256.")
        batch_id = self.scope.stored(batch_id) if batch_id else ""
        if request.position:
            item = await self.read(lambda queries: queries.find_item(batch_id, request.position))
        else:
            batch_id, item = await self.read(lambda queries: queries.find_content(request.sha256, batch_id, prefix))
        response = batch_pb2.GetReportResponse(batch_id=self.scope.told(batch_id), item=self._to_item(item))
        await self.add_report(item.number, response)
        return response

    async def add_report(self, number: int, message: batch_pb2.ItemEnded | batch_pb2.GetReportResponse) -> None:
        """Puts the report of an item, where it has one, into a message."""
        report = await self.read(lambda queries: queries.report(number))
        if report:
            message.report.CopyFrom(report_pb2.Report.FromString(report))

    def _to_item(self, item: ItemRecord) -> batch_pb2.BatchItem:
        return to_item(item, running=self.is_running(item.number))


@contextlib.asynccontextmanager
async def stored_journal(folder: Path) -> AsyncIterator[JournalView]:
    """The journal in a folder, without its coordinator, which may have it open all the same; changes nothing in it.

    Raises:
        MaifsError: NO_JOURNAL when there is none, JOURNAL_UNUSABLE.
    """
    reader = await asyncio.to_thread(lambda: Reader(open_stored(folder / DATABASE_NAME)))
    one_at_a_time = asyncio.Lock()

    async def read(query: Callable[[Reader], T]) -> T:
        async with one_at_a_time:
            return await asyncio.to_thread(query, reader)

    try:
        yield JournalView(read)
    finally:
        reader.close()


def _page_size(wanted: int) -> int:
    if not 0 <= wanted <= LARGEST_PAGE:
        raise MaifsError(Reason.INVALID_REQUEST, f"page_size is {wanted}; 0 to {LARGEST_PAGE} are allowed.")
    return wanted or DEFAULT_PAGE


def _page_token(token: str, first: int) -> int:
    if not token:
        return first
    if not (token.isascii() and token.isdigit() and len(token) < 19):
        raise MaifsError(Reason.INVALID_REQUEST, "page_token is not one that this service gave.")
    return int(token)
