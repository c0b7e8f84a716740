"""Everything that is written to the journal's database. One thread owns a store; each method is one transaction."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from coordinator.journal.queries import find_batch, find_key, item_of
from coordinator.journal.records import (
    BatchRecord,
    BatchSettings,
    ItemKey,
    ItemRecord,
    ItemState,
    Outcome,
    QueuedBatch,
    Retry,
)
from coordinator.journal.schema import open_database
from serving.errors import MaifsError, Reason

CAREFUL_AFTER_LOSSES = 2
"""Losses of the vision service after which an item is tried alone, so that it takes no neighbour with it."""

_FULL_RETRY_S = 10.0


class Store:
    """The writer's side of the database."""

    def __init__(self, path: Path) -> None:
        """Opens, makes or migrates the database.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        self._path = path
        self._db = open_database(path)

    def close(self) -> None:
        """Closes the database, with its write-ahead log folded in."""
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Commits at its end, or leaves everything as it was.

        Raises:
            MaifsError: STORAGE_FULL, JOURNAL_UNUSABLE.
        """
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _explained(error, self._path) from error

    def begin(self, batch_id: str, title: str, options: BatchSettings, now_ns: int) -> BatchRecord:
        """Makes a batch, or opens an existing one again.

        Raises:
            MaifsError: BATCH_MISMATCH when it exists with other fixed options.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT INTO batches (batch_id, title, fixed_options, options, create_time_ns) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (batch_id) DO UPDATE SET options = excluded.options, sealed = 0, cancelled = 0",
                (batch_id, title, options.fixed, options.all, now_ns),
            )
            fixed = db.execute("SELECT fixed_options FROM batches WHERE batch_id = ?", (batch_id,)).fetchone()[0]
            if fixed != options.fixed:
                raise MaifsError(
                    Reason.BATCH_MISMATCH,
                    f"The batch {batch_id!r} was begun with other options.",
                    "Use another batch_id, or the options that GetBatch shows.",
                )
            return find_batch(db, batch_id)

    def seal(self, batch_id: str) -> BatchRecord:
        """Nothing more will come."""
        with self._transaction() as db:
            db.execute("UPDATE batches SET sealed = 1 WHERE batch_id = ?", (batch_id,))
            return find_batch(db, batch_id)

    def find(self, batch_id: str, key: ItemKey, retry: Retry) -> ItemRecord | None:
        """The item of this key; None when its bytes are wanted, because it is new or is to be tried again."""
        item = find_key(self._db, batch_id, key.name, key.sha256)
        if item is None or item.state is ItemState.QUEUED or retry is Retry.NONE:
            return item
        return item if item.is_settled and retry is Retry.UNSETTLED else None

    def admit(self, batch_id: str, key: ItemKey, retry: Retry = Retry.UNSETTLED) -> tuple[ItemRecord, bool]:
        """Queues an item whose bytes are in the spool: a new one, or one that ended.

        Returns:
            The item, and whether it was queued by this; one that is queued, or has its report and is not to be tried
            again all the same, stays as it is.
        """
        ended = (ItemState.FAILED, ItemState.CANCELLED, *([ItemState.REPORTED] if retry is Retry.ALL else []))
        with self._transaction() as db:
            db.execute("UPDATE batches SET sealed = 0, cancelled = 0 WHERE batch_id = ?", (batch_id,))
            batch = find_batch(db, batch_id).number
            again = db.execute(
                "UPDATE items SET state = 1, sequence = NULL, losses_count = 0, verdict = 0, probability = 0,"
                " reason = '', error = x'', end_time_ns = NULL WHERE batch = ? AND name = ? AND sha256 = ?"
                " AND state IN (SELECT value FROM json_each(?)) RETURNING number",
                (batch, key.name, key.sha256, json.dumps(ended)),
            ).fetchone()
            if again:
                db.execute("DELETE FROM reports WHERE item = ?", again)
            item = find_key(db, batch_id, key.name, key.sha256)
            return (item, again is not None) if item else (self._insert(db, batch_id, batch, key), True)

    def _insert(self, db: sqlite3.Connection, batch_id: str, batch: int, key: ItemKey) -> ItemRecord:
        db.execute("UPDATE batches SET last_position = last_position + 1 WHERE number = ?", (batch,))
        db.execute(
            "INSERT INTO items (batch, position, name, sha256, size_bytes, state)"
            " SELECT number, last_position, ?, ?, ?, 1 FROM batches WHERE number = ?",
            (key.name, key.sha256, key.size_bytes, batch),
        )
        item = find_key(db, batch_id, key.name, key.sha256)
        assert item is not None
        return item

    def end(self, number: int, outcome: Outcome, now_ns: int) -> list[ItemRecord]:
        """Gives a queued item its end and the batch's next sequence; returns it, or nothing when it had its end."""
        with self._transaction() as db:
            return self._end(db, number, outcome, now_ns)

    def _end(self, db: sqlite3.Connection, number: int, outcome: Outcome, now_ns: int) -> list[ItemRecord]:
        sequence = db.execute(
            "UPDATE batches SET last_sequence = last_sequence + 1"
            " WHERE number = (SELECT batch FROM items WHERE number = ? AND state = 1) RETURNING last_sequence",
            (number,),
        ).fetchone()
        if sequence is None:
            return []
        db.execute(
            "UPDATE items SET state = ?, sequence = ?, verdict = ?, probability = ?, reason = ?, error = ?,"
            " end_time_ns = ? WHERE number = ?",
            (
                int(outcome.state), sequence[0], outcome.verdict, outcome.probability, outcome.reason, outcome.error,
                now_ns, number,
            ),
        )  # fmt: skip
        if outcome.state is ItemState.REPORTED:
            db.execute("INSERT INTO reports (item, report) VALUES (?, ?)", (number, outcome.report))
        return [item_of(db.execute("SELECT * FROM item_records WHERE number = ?", (number,)).fetchone())]

    def cancel(self, batch_id: str, outcome: Outcome, now_ns: int) -> list[ItemRecord]:
        """Ends all queued items of a batch; returns them."""
        with self._transaction() as db:
            batch = find_batch(db, batch_id)
            db.execute("UPDATE batches SET sealed = 1, cancelled = 1 WHERE number = ?", (batch.number,))
            numbers = db.execute(
                "SELECT number FROM items WHERE batch = ? AND state = 1 ORDER BY number", (batch.number,)
            ).fetchall()
            return [item for (number,) in numbers for item in self._end(db, number, outcome, now_ns)]

    def add_loss(self, number: int) -> int:
        """Notes that the vision service was lost while it had the item; returns how often that was so."""
        with self._transaction() as db:
            row = db.execute(
                "UPDATE items SET losses_count = losses_count + 1 WHERE number = ? RETURNING losses_count", (number,)
            ).fetchone()
            return int(row[0]) if row else 0

    def queued_batches(self) -> list[QueuedBatch]:
        """Batches with queued items, the oldest first."""
        rows = self._db.execute(
            "SELECT number, batch_id, options FROM batches"
            " WHERE EXISTS (SELECT 1 FROM items WHERE batch = batches.number AND state = 1) ORDER BY number"
        )
        return [QueuedBatch(*row) for row in rows.fetchall()]

    def next_queued(self, batch_number: int, running: Collection[int]) -> ItemRecord | None:
        """The item of a batch whose turn it is: those that must be tried alone first, then by acceptance."""
        row = self._db.execute(
            "SELECT * FROM item_records WHERE batch = ? AND state = 1"
            " AND number NOT IN (SELECT value FROM json_each(?)) ORDER BY losses_count < ?, number LIMIT 1",
            (batch_number, json.dumps(list(running)), CAREFUL_AFTER_LOSSES),
        ).fetchone()
        return item_of(row) if row else None

    def queued_content(self) -> list[tuple[bytes, int]]:
        """Digest and size in bytes of every queued item; a content appears once for each of its items."""
        return [
            (bytes(sha256), int(size))
            for sha256, size in self._db.execute("SELECT sha256, size_bytes FROM items WHERE state = 1")
        ]

    def is_queued(self, sha256: bytes) -> bool:
        """Whether a queued item has this content."""
        row = self._db.execute("SELECT 1 FROM items WHERE sha256 = ? AND state = 1 LIMIT 1", (sha256,)).fetchone()
        return row is not None

    def prune(self, ended_before_ns: int) -> Sequence[str]:
        """Forgets batches whose last item ended before a moment; returns their ids."""
        with self._transaction() as db:
            rows = db.execute(
                "DELETE FROM batches WHERE create_time_ns < :before AND NOT EXISTS (SELECT 1 FROM items WHERE"
                " items.batch = batches.number AND (state = 1 OR end_time_ns >= :before)) RETURNING batch_id",
                {"before": ended_before_ns},
            ).fetchall()
        if rows:
            self._db.execute("PRAGMA incremental_vacuum").fetchall()
        return [str(batch_id) for (batch_id,) in rows]


def _explained(error: sqlite3.DatabaseError, path: Path) -> MaifsError:
    name = getattr(error, "sqlite_errorname", "") or ""
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return MaifsError(
            Reason.STORAGE_FULL,
            f"The journal {path} cannot be written: {error}.",
            "Make room on its disk; what was accepted is safe.",
            retry_after_s=_FULL_RETRY_S,
        )
    return MaifsError(Reason.JOURNAL_UNUSABLE, f"The journal {path} cannot be used: {error}.", "See its folder.")
