"""Works off the journal: takes queued items in turn, analyses them, and gives each its end.

Whatever is not an end leaves the item queued: a coordinator that dies, a vision service that is away, a full disk. An
item that loses the vision service again and again is tried alone, then given up: it may be what kills it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from coordinator.counters import Counters
from coordinator.journal.journal import Journal
from coordinator.journal.records import ItemRecord, ItemState, Outcome, QueuedBatch
from coordinator.journal.store import CAREFUL_AFTER_LOSSES
from coordinator.vision_client import Picture
from maifs.coordinator.v1 import batch_pb2, coordinator_pb2
from serving.errors import MaifsError, Reason
from serving.item_stream import Budget
from serving.requests import current_request_id, new_request_id
from serving.status import to_status

_log = logging.getLogger(__name__)

Analyze = Callable[[Picture, coordinator_pb2.AnalyzeOptions, str], AsyncIterator[coordinator_pb2.ItemEvent]]
"""Analyses a picture with these options for a batch of this id. Raises MaifsError when there can be no report."""

MAX_LOSSES = 5
"""Times that an item may lose the vision service before it is given up."""
_AWAY = frozenset({Reason.BACKEND_UNAVAILABLE, Reason.SHUTTING_DOWN, Reason.ENGINE_DEAD})
_FIRST_PAUSE_S = 0.3
_LONGEST_PAUSE_S = 30.0
_LONGEST_PROBE_PAUSE_S = 2.0
_BUDGET_PAUSE_S = 0.5
_PRUNE_EVERY_S = 3600.0


@dataclass(frozen=True, eq=False)
class _Running:
    batch: QueuedBatch
    item: ItemRecord
    task: asyncio.Task[None]


class BatchRunner:
    """One for each journal."""

    def __init__(
        self,
        journal: Journal,
        analyze: Analyze,
        is_ready: Callable[[], bool],
        share: Budget,
        *,
        concurrency: int,
        max_image_bytes: int,
        counters: Counters,
        on_failed: Callable[[Reason], None] = lambda _: None,
    ) -> None:
        """Puts the parts together.

        Args:
            journal: open.
            analyze: the pipeline.
            is_ready: whether some vision service serves at this moment.
            share: room for encoded pictures in memory, of which the calls that bring their own have the rest.
            concurrency: most items under way at a time.
            max_image_bytes: largest file; one that was accepted under a larger limit fails.
            counters: told of items under way and of their ends.
            on_failed: called with the reason when an item ends without a report.
        """
        self._counters, self._on_failed = counters, on_failed
        self._journal, self._analyze, self._is_ready, self._share = journal, analyze, is_ready, share
        self._concurrency, self._max_image_bytes = concurrency, max_image_bytes
        self._running: dict[int, _Running] = {}
        self._last_turn: dict[int, int] = {}
        self._turns = 0
        self._wake = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._outages_in_row = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._recovery: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to work."""
        self._journal.on_queued = self._wake.set
        self._tasks = [asyncio.ensure_future(work) for work in (self._dispatch(), self._prune())]
        self._pause("No vision service is ready yet.")  # else every item would count the first seconds as a loss

    async def stop(self) -> None:
        """Gives up what is under way; it stays queued."""
        tasks = [*self._tasks, *(running.task for running in self._running.values())]
        tasks += [self._recovery] if self._recovery else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def running(self) -> int:
        """Items under way."""
        return len(self._running)

    @property
    def turns_kept(self) -> int:
        """Batches whose last turn is remembered: at most those with queued items."""
        return len(self._last_turn)

    def is_running(self, number: int) -> bool:
        """Whether an item is under way."""
        return number in self._running

    def forget(self, batch_number: int) -> None:
        """Stops the work on a batch that was cancelled."""
        for running in list(self._running.values()):
            if running.batch.number == batch_number:
                running.task.cancel()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_EVERY_S)
            try:
                await self._journal.prune()
            except MaifsError as error:
                _log.warning("old batches were not forgotten", extra={"detail": error.message})

    async def _dispatch(self) -> None:
        while True:
            self._wake.clear()
            try:
                while (chosen := await self._choose()) is not None:
                    self._begin(*chosen)
            except MaifsError as error:
                _log.error("the journal cannot be read", extra={"detail": error.message})
                asyncio.get_running_loop().call_later(_LONGEST_PAUSE_S, self._wake.set)
            await self._wake.wait()

    async def _choose(self) -> tuple[QueuedBatch, ItemRecord] | None:
        """The next item: of the batch with the fewest under way, which waited longest."""
        if self._recovery or len(self._running) >= self._concurrency or any(map(_is_careful, self._running.values())):
            return None
        batches = await self._journal.queued_batches()
        self._forget_turns(batches)
        for batch in sorted(batches, key=self._turn):
            under_way = self._under_way(batch)
            if len(under_way) >= (_options(batch).max_running_items_count or self._concurrency):
                continue
            item = await self._journal.next_queued(batch.number, under_way)
            if item is None:
                continue
            if item.losses_count >= CAREFUL_AFTER_LOSSES and self._running:
                return None
            return (batch, item) if self._reserve(item) else None
        return None

    def _forget_turns(self, queued: list[QueuedBatch]) -> None:
        """Keeps the turns of batches with queued items alone (those under way are among them)."""
        numbers = {batch.number for batch in queued}
        self._last_turn = {number: turn for number, turn in self._last_turn.items() if number in numbers}

    def _turn(self, batch: QueuedBatch) -> tuple[int, int]:
        return len(self._under_way(batch)), self._last_turn.get(batch.number, 0)

    def _under_way(self, batch: QueuedBatch) -> list[int]:
        return [number for number, running in self._running.items() if running.batch.number == batch.number]

    def _reserve(self, item: ItemRecord) -> bool:
        try:
            self._share.reserve(self._held_bytes(item))
        except MaifsError:
            asyncio.get_running_loop().call_later(_BUDGET_PAUSE_S, self._wake.set)
            return False
        return True

    def _held_bytes(self, item: ItemRecord) -> int:
        return min(item.key.size_bytes, self._max_image_bytes)

    def _begin(self, batch: QueuedBatch, item: ItemRecord) -> None:
        self._turns += 1
        self._last_turn[batch.number] = self._turns
        task = asyncio.ensure_future(self._run(batch, item))
        self._running[item.number] = _Running(batch, item, task)
        self._counters.open += 1

        def ended(_: asyncio.Task[None]) -> None:
            del self._running[item.number]
            self._counters.open -= 1
            self._share.release(self._held_bytes(item))
            self._wake.set()

        task.add_done_callback(ended)

    async def _run(self, batch: QueuedBatch, item: ItemRecord) -> None:
        current_request_id.set(new_request_id())
        try:
            outcome: Outcome | None = await self._report(batch, item)
            self._outages_in_row = 0
        except MaifsError as error:
            outcome = await self._lost(item, error) if error.reason in _AWAY else failure(error)
        except Exception as error:  # noqa: BLE001 - one item's fault must not end the work on the others
            _log.exception("item failed", extra={"batch": batch.batch_id, "position": item.position})
            outcome = failure(MaifsError(Reason.INTERNAL, f"The service failed unexpectedly: {type(error).__name__}."))
        if outcome is not None:
            if outcome.state is ItemState.FAILED:
                self._on_failed(Reason[outcome.reason])
            await self._save(batch, item, outcome)
            self._counters.completed += outcome.state is ItemState.REPORTED
            self._counters.failed += outcome.state is ItemState.FAILED

    async def _report(self, batch: QueuedBatch, item: ItemRecord) -> Outcome:
        """Analyses an item, again and again where the vision service has no room."""
        if item.key.size_bytes > self._max_image_bytes:
            raise MaifsError(
                Reason.IMAGE_TOO_LARGE,
                f"The file has {item.key.size_bytes:,} bytes; the limit is now {self._max_image_bytes:,}.",
            )
        data = await self._journal.read_picture(item)
        picture = Picture(data, item.key.name.rpartition("/")[2][:255], item.key.sha256)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async for event in self._analyze(picture, _options(batch).analyze, batch.batch_id):
                    if event.HasField("report"):
                        return _reported(event)
                    self._journal.watches.progress(batch.batch_id, item.position, event)
                raise MaifsError(Reason.BACKEND_FAILED, "The analysis ended without a report.")
            except MaifsError as error:
                if error.reason not in {Reason.QUEUE_FULL, Reason.TOO_MANY_OPEN_ITEMS}:
                    raise
                await asyncio.sleep(max(pause_s, error.retry_after_s))
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _lost(self, item: ItemRecord, error: MaifsError) -> Outcome | None:
        """The vision service went away while it had the item, or was not there."""
        self._pause(f"No vision service answers: {error.message}")
        try:
            losses = await self._journal.add_loss(item)
        except MaifsError:
            losses = item.losses_count  # a full disk: not counted
        extra = {"losses": losses, "position": item.position, "detail": error.message}
        _log.warning("vision service lost", extra=extra)
        if losses < MAX_LOSSES:
            return None
        return failure(
            MaifsError(
                Reason.BACKEND_FAILED,
                f"The vision service was lost {losses} times while it had this picture, at last alone. {error.message}",
                "See the log of vision-service; the picture may be what ends it.",
            )
        )

    def _pause(self, problem: str) -> None:
        """Nothing is begun until a vision service is ready."""
        self._set_problem("vision", problem)
        if self._recovery is None:
            self._recovery = asyncio.ensure_future(self._recover())

    async def _recover(self) -> None:
        pause_s = min(_FIRST_PAUSE_S * 2**self._outages_in_row, _LONGEST_PAUSE_S)
        self._outages_in_row = min(self._outages_in_row + 1, 16)
        await asyncio.sleep(pause_s)
        while not self._is_ready():  # noqa: ASYNC110 - what is asked belongs to another part and tells nobody
            await asyncio.sleep(min(pause_s, _LONGEST_PROBE_PAUSE_S))
        self._recovery = None
        self._set_problem("vision", "")
        self._wake.set()

    async def _save(self, batch: QueuedBatch, item: ItemRecord, outcome: Outcome) -> None:
        """Stores an end; where the disk is full, as soon as it has room."""
        while True:
            try:
                await self._journal.end(batch.batch_id, item, outcome)
            except MaifsError as error:
                self._set_problem("journal", error.message)
                _log.error("an end waits to be stored", extra={"detail": error.message, "position": item.position})
                await asyncio.sleep(error.retry_after_s or _LONGEST_PAUSE_S)
            else:
                self._set_problem("journal", "")
                return

    def _set_problem(self, name: str, text: str) -> None:
        self._problems[name] = text
        self._journal.watches.set_problem(" ".join(filter(None, self._problems.values())))


def failure(error: MaifsError) -> Outcome:
    """The end of an item that has no report."""
    state = ItemState.CANCELLED if error.reason is Reason.CANCELLED else ItemState.FAILED
    return Outcome(state, reason=error.reason.name, error=to_status(error).SerializeToString())


def _reported(event: coordinator_pb2.ItemEvent) -> Outcome:
    report = event.report
    return Outcome(ItemState.REPORTED, report.verdict, report.probability, report.SerializeToString())


def _options(batch: QueuedBatch) -> batch_pb2.BatchOptions:
    return batch_pb2.BatchOptions.FromString(batch.options)


def _is_careful(running: _Running) -> bool:
    return running.item.losses_count >= CAREFUL_AFTER_LOSSES
