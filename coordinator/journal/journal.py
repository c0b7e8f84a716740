"""The journal as the coordinator uses it: one writer thread, one reader thread, and events when something changes."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coordinator.journal.lock import FolderLock
from coordinator.journal.queries import Reader
from coordinator.journal.records import BatchRecord, BatchSettings, ItemKey, ItemRecord, Outcome, QueuedBatch, Retry
from coordinator.journal.schema import DATABASE_NAME, open_database
from coordinator.journal.spool import Spool, Upload
from coordinator.journal.store import Store
from coordinator.journal.watch import Watches
from serving.item_stream import ByteBudget

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class JournalSettings:
    """How the journal is kept."""

    folder: Path
    max_spool_bytes: int
    """Most bytes of queued pictures; more is refused with QUEUE_FULL."""
    retention_s: float
    """Seconds after which a batch whose items have all ended is forgotten; 0: never."""


class Journal:
    """Batches on disk. Methods that write return when what they wrote is on the disk."""

    def __init__(self, settings: JournalSettings) -> None:
        """Touches nothing; see `open`."""
        self._settings = settings
        self._writer = ThreadPoolExecutor(1, "journal-writer")
        self._reader = ThreadPoolExecutor(1, "journal-reader")
        self._quota = ByteBudget(settings.max_spool_bytes)
        self._folder_lock = FolderLock(settings.folder)
        self.watches = Watches()
        """Tells watchers of changes."""
        self._saving: set[asyncio.Task[Any]] = set()
        self._store: Store | None = None
        self._queries: Reader | None = None
        self._spool: Spool | None = None
        self.is_open = False
        """Whether it can be used: between the end of `open` and the beginning of `close`."""
        self.on_queued: Callable[[], None] = lambda: None
        """Called when an item was queued."""

    async def open(self) -> None:
        """Takes the folder, opens the database and forgets what is too old or was half received.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        await self._folder_lock.acquire()
        await self._write(self._open)
        await self.prune()
        self.is_open = True

    def _open(self) -> None:
        database = self._settings.folder / DATABASE_NAME
        self._store = Store(database)
        self._queries = Reader(open_database(database, read_only=True))
        queued = self._store.queued_content()
        self._spool = Spool(self._settings.folder / "spool")
        self._spool.clean([sha256 for sha256, _ in queued])
        self._quota.held_bytes = sum(size for _, size in queued)
        if queued:
            _log.info("batches go on", extra={"queued_items": len(queued)})

    async def close(self) -> None:
        """Waits for what is being written and lets go of the folder."""
        self.is_open = False
        await asyncio.gather(*self._saving, return_exceptions=True)
        for part, thread in ((self._queries, self._reader), (self._store, self._writer)):
            if part:
                await asyncio.get_running_loop().run_in_executor(thread, part.close)
            thread.shutdown()
        self._folder_lock.release()

    @property
    def spooled_bytes(self) -> int:
        """Bytes of queued pictures."""
        return self._quota.held_bytes

    @property
    def max_spool_bytes(self) -> int:
        """Most of them."""
        return self._settings.max_spool_bytes

    # Writing

    async def begin(self, batch_id: str, title: str, options: BatchSettings) -> BatchRecord:
        """See Store.begin."""
        batch = await self._write(lambda: self.store.begin(batch_id, title, options, time.time_ns()))
        self.watches.changed(batch_id)
        return batch

    async def seal(self, batch_id: str) -> BatchRecord:
        """See Store.seal."""
        batch = await self._write(lambda: self.store.seal(batch_id))
        self.watches.changed(batch_id)
        return batch

    async def find(self, batch_id: str, key: ItemKey, retry: Retry) -> ItemRecord | None:
        """See Store.find."""
        return await self._write(lambda: self.store.find(batch_id, key, retry))

    async def open_upload(self, key: ItemKey) -> Upload:
        """Makes room for an item's bytes. End it with `admit` or `drop`.

        Raises:
            MaifsError: QUEUE_FULL with a time to wait, STORAGE_FULL.
        """
        self._quota.reserve(key.size_bytes)
        try:
            return await asyncio.to_thread(self.spool.open, key.sha256, key.size_bytes)
        except BaseException:
            self._quota.release(key.size_bytes)
            raise

    def drop(self, upload: Upload) -> None:
        """Gives up a file that is being received."""
        upload.discard()
        self._quota.release(upload.size_bytes)

    async def admit(self, batch_id: str, key: ItemKey, upload: Upload, retry: Retry = Retry.UNSETTLED) -> ItemRecord:
        """Queues an item whose upload is finished; see Store.admit. When it returns the item will end, whatever dies.

        Raises:
            MaifsError: STORAGE_FULL, UNKNOWN_BATCH; the upload is dropped then.
        """
        return await self._uninterrupted(self._admit(batch_id, key, upload, retry))

    async def _admit(self, batch_id: str, key: ItemKey, upload: Upload, retry: Retry) -> ItemRecord:
        def work() -> tuple[ItemRecord, bool]:
            # By the writer's thread: else the end of another item of the same content could remove the file between.
            try:
                self.spool.keep(upload)
                return self.store.admit(batch_id, key, retry)
            finally:
                self._forget_content(key.sha256)

        try:
            item, is_new = await self._write(work)
        except BaseException:
            self.drop(upload)
            raise
        if not is_new:
            self._quota.release(key.size_bytes)
        self.watches.changed(batch_id)
        self.on_queued()
        return item

    async def end(self, batch_id: str, item: ItemRecord, outcome: Outcome) -> ItemRecord | None:
        """See Store.end; gives the item's room back.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        end = self._end_items(batch_id, lambda: self.store.end(item.number, outcome, time.time_ns()))
        return next(iter(await self._uninterrupted(end)), None)

    async def cancel(self, batch_id: str, outcome: Outcome) -> list[ItemRecord]:
        """See Store.cancel."""
        cancel = self._end_items(batch_id, lambda: self.store.cancel(batch_id, outcome, time.time_ns()))
        return await self._uninterrupted(cancel)

    async def _end_items(self, batch_id: str, end: Callable[[], list[ItemRecord]]) -> list[ItemRecord]:
        """Ends items in the writer's thread, then gives back what they held, there and here."""

        def work() -> list[ItemRecord]:
            ended = end()
            for item in ended:
                self._forget_content(item.key.sha256)
            return ended

        ended = await self._write(work)
        for item in ended:
            self._quota.release(item.key.size_bytes)
        self.watches.changed(batch_id)
        return ended

    def _forget_content(self, sha256: bytes) -> None:
        if not self.store.is_queued(sha256):
            self.spool.remove(sha256)

    async def add_loss(self, item: ItemRecord) -> int:
        """See Store.add_loss."""
        return await self._write(lambda: self.store.add_loss(item.number))

    async def prune(self) -> None:
        """Forgets batches that are older than the retention."""
        if self._settings.retention_s <= 0:
            return
        before_ns = time.time_ns() - int(self._settings.retention_s * 1e9)
        forgotten = await self._write(lambda: self.store.prune(before_ns))
        if forgotten:
            _log.info("batches forgotten", extra={"batches": len(forgotten)})

    # Reading

    async def queued_batches(self) -> list[QueuedBatch]:
        """See Store.queued_batches."""
        return await self._write(self.store.queued_batches)

    async def next_queued(self, batch_number: int, running: list[int]) -> ItemRecord | None:
        """See Store.next_queued."""
        return await self._write(lambda: self.store.next_queued(batch_number, running))

    async def read_picture(self, item: ItemRecord) -> bytes:
        """The bytes of a queued item.

        Raises:
            MaifsError: FILE_UNREADABLE.
        """
        return await asyncio.to_thread(self.spool.read, item.key.sha256)

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Runs a query in the reader's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, lambda: query(self.queries))

    # Threads

    @property
    def store(self) -> Store:
        """The writer's side; for the writer's thread."""
        assert self._store, "the journal is not open"
        return self._store

    @property
    def queries(self) -> Reader:
        """The readers' side; for the reader's thread."""
        assert self._queries, "the journal is not open"
        return self._queries

    @property
    def spool(self) -> Spool:
        """The bytes of queued items."""
        assert self._spool, "the journal is not open"
        return self._spool

    async def _write(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._writer, work)

    async def _uninterrupted(self, work: Coroutine[Any, Any, T]) -> T:
        """Goes on when the caller is cancelled: a commit that is under way has its effects on memory too."""
        task = asyncio.ensure_future(work)
        self._saving.add(task)
        task.add_done_callback(self._saving.discard)
        return await asyncio.shield(task)
