"""maifs.coordinator.v1.BatchService on the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from coordinator.journal.batches import Batches
from coordinator.journal.convert import to_item
from coordinator.journal.journal import Journal
from coordinator.journal.ownership import callers_scope
from coordinator.journal.records import BatchRecord, BatchState
from coordinator.journal.runner import failure
from coordinator.journal.submission import Submission
from coordinator.journal.view import JournalView
from coordinator.journal.watch import Watch
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc, coordinator_pb2
from serving.errors import MaifsError, Reason
from serving.item_stream import ItemLimits

_EVENTS_AT_A_TIME = 8


class BatchServicer(batch_pb2_grpc.BatchServiceServicer):
    """Translates between the contract and the journal."""

    def __init__(
        self,
        batches: Batches | None,
        limits: ItemLimits,
        check_options: Callable[[coordinator_pb2.AnalyzeOptions], object],
    ) -> None:
        """Takes the batches (None: every call is refused), the limits, and what raises INVALID_REQUEST for options."""
        self._batches, self._limits, self._check_options = batches, limits, check_options

    @property
    def _journal(self) -> Journal:
        if self._batches is None:
            raise MaifsError(
                Reason.NO_JOURNAL,
                "This coordinator keeps no journal, so it takes no batches.",
                "Set coordinator.state_folder, or use AnalyzeStream.",
            )
        if not self._batches.journal.is_open:
            raise MaifsError(
                Reason.SHUTTING_DOWN, "The journal is not open: the service starts or ends.", retry_after_s=0.5
            )
        return self._batches.journal

    @property
    def _view(self) -> JournalView:
        journal = self._journal
        assert self._batches
        return JournalView(
            journal.read, self._batches.runner.is_running, lambda: journal.watches.problem, callers_scope()
        )

    async def SubmitBatch(  # noqa: N802
        self, request_iterator: AsyncIterator[batch_pb2.SubmitBatchRequest], context: Any
    ) -> AsyncIterator[batch_pb2.SubmitBatchResponse]:
        """Items in."""
        submission = Submission(self._journal, self._limits, self._check_options)
        async for response in submission.run(request_iterator):
            yield response

    async def WatchBatch(  # noqa: N802
        self, request: batch_pb2.WatchBatchRequest, context: Any
    ) -> AsyncIterator[batch_pb2.WatchBatchResponse]:
        """Ends out."""
        with self._journal.watches.watch(callers_scope().stored(request.batch_id)) as watch:
            cursor, told = request.after_sequence, None
            while True:
                watch.changed.clear()
                batch = await self._view.batch(request.batch_id)
                message = self._view.to_batch(batch)
                if told is None or message.problem != told:
                    yield batch_pb2.WatchBatchResponse(batch=message)
                    told = message.problem
                async for response in self._progress(request, watch):
                    yield response
                before = cursor
                async for ended in self._ended(request, batch, cursor):
                    cursor = ended.item.sequence
                    yield batch_pb2.WatchBatchResponse(ended=ended)
                if cursor > before:
                    continue  # there may be more
                over = batch.state in {BatchState.DONE, BatchState.CANCELLED}
                if over or request.snapshot:
                    yield batch_pb2.WatchBatchResponse(batch=message)
                    return
                if self._journal.watches.closed:
                    raise MaifsError(Reason.SHUTTING_DOWN, "The coordinator ends; the batch goes on when it is back.")
                await watch.changed.wait()

    async def _progress(
        self, request: batch_pb2.WatchBatchRequest, watch: Watch
    ) -> AsyncIterator[batch_pb2.WatchBatchResponse]:
        while watch.progress:
            position, event = watch.progress.popleft()
            if request.progress:
                progress = batch_pb2.ItemProgress(position=position, event=event)
                yield batch_pb2.WatchBatchResponse(progress=progress)

    async def _ended(
        self, request: batch_pb2.WatchBatchRequest, batch: BatchRecord, cursor: int
    ) -> AsyncIterator[batch_pb2.ItemEnded]:
        """A few ends; one report at a time is in memory."""
        items = await self._journal.read(lambda queries: queries.ended_after(batch.number, cursor, _EVENTS_AT_A_TIME))
        for item in items:
            ended = batch_pb2.ItemEnded(item=to_item(item))
            if not request.skip_reports:
                await self._view.add_report(item.number, ended)
            yield ended

    async def GetBatch(  # noqa: N802
        self, request: batch_pb2.GetBatchRequest, context: Any
    ) -> batch_pb2.GetBatchResponse:
        """One batch."""
        return await self._view.get_batch(request)

    async def ListBatches(  # noqa: N802
        self, request: batch_pb2.ListBatchesRequest, context: Any
    ) -> batch_pb2.ListBatchesResponse:
        """A page of batches."""
        return await self._view.list_batches(request)

    async def ListBatchItems(  # noqa: N802
        self, request: batch_pb2.ListBatchItemsRequest, context: Any
    ) -> batch_pb2.ListBatchItemsResponse:
        """A page of items."""
        return await self._view.list_items(request)

    async def GetReport(  # noqa: N802
        self, request: batch_pb2.GetReportRequest, context: Any
    ) -> batch_pb2.GetReportResponse:
        """One report."""
        return await self._view.get_report(request)

    async def CancelBatch(  # noqa: N802
        self, request: batch_pb2.CancelBatchRequest, context: Any
    ) -> batch_pb2.CancelBatchResponse:
        """Ends what has not ended."""
        error = MaifsError(Reason.CANCELLED, "The batch was cancelled.", "Submit it again to go on.")
        await self._journal.cancel(callers_scope().stored(request.batch_id), failure(error))
        batch = await self._view.batch(request.batch_id)
        if self._batches:
            self._batches.runner.forget(batch.number)
        return batch_pb2.CancelBatchResponse(batch=self._view.to_batch(batch))
