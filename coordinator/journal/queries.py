"""What is read from the journal's database: rows as records, and a reader with a connection of its own."""

from __future__ import annotations

import sqlite3
from typing import Any

from coordinator.journal.records import BatchRecord, ItemKey, ItemRecord, ItemState
from serving.errors import MaifsError, Reason

Row = tuple[Any, ...]

_OWNED = (
    "(:prefix = '' OR (substr(batch_id, 1, length(:prefix)) = :prefix"
    " AND instr(substr(batch_id, length(:prefix) + 1), '/') = 0))"
)


def item_of(row: Row) -> ItemRecord:
    """A row of the view item_records."""
    number, batch, position, name, sha256, size, state, *rest = row
    return ItemRecord(number, batch, position, ItemKey(name, sha256, size), ItemState(state), *rest)


def batch_of(row: Row) -> BatchRecord:
    """A row of the view batch_records."""
    number, batch_id, title, options, sealed, cancelled, *rest = row
    return BatchRecord(number, batch_id, title, options, bool(sealed), bool(cancelled), *rest)


def find_batch(db: sqlite3.Connection, batch_id: str) -> BatchRecord:
    """One batch.

    Raises:
        MaifsError: UNKNOWN_BATCH.
    """
    row = db.execute("SELECT * FROM batch_records WHERE batch_id = ?", (batch_id,)).fetchone()
    if row is None:
        raise MaifsError(
            Reason.UNKNOWN_BATCH, f"There is no batch {batch_id[:128]!r}.", "ListBatches names those that there are."
        )
    return batch_of(row)


def find_key(db: sqlite3.Connection, batch_id: str, name: str, sha256: bytes) -> ItemRecord | None:
    """The item of a batch with this name and content; None when there is none."""
    row = db.execute(
        "SELECT item_records.* FROM item_records JOIN batches ON batches.number = batch"
        " WHERE batch_id = ? AND name = ? AND sha256 = ?",
        (batch_id, name, sha256),
    ).fetchone()
    return item_of(row) if row else None


class Reader:
    """The readers' side of the database. One thread owns it; it sees what was committed before each call."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Takes a connection of its own."""
        self._db = db

    def close(self) -> None:
        """Closes the connection."""
        self._db.close()

    def batch(self, batch_id: str) -> BatchRecord:
        """See find_batch."""
        return find_batch(self._db, batch_id)

    def find_key(self, batch_id: str, name: str, sha256: bytes) -> ItemRecord | None:
        """See find_key."""
        return find_key(self._db, batch_id, name, sha256)

    def queued_count(self) -> int:
        """Items of all batches that have not ended."""
        return int(self._db.execute("SELECT COUNT(*) FROM items WHERE state = 1").fetchone()[0])

    def batches(self, before_number: int, limit: int, prefix: str = "") -> list[BatchRecord]:
        """Batches older than one, the newest first; `prefix` as in coordinator.journal.ownership.Scope."""
        rows = self._db.execute(
            f"SELECT * FROM batch_records WHERE number < :before AND {_OWNED} ORDER BY number DESC LIMIT :limit",  # noqa: S608
            {"before": before_number, "limit": limit, "prefix": prefix},
        )
        return [batch_of(row) for row in rows.fetchall()]

    def items(self, batch_id: str, after_position: int, limit: int) -> list[ItemRecord]:
        """Items of a batch by position.

        Raises:
            MaifsError: UNKNOWN_BATCH.
        """
        batch = find_batch(self._db, batch_id)
        rows = self._db.execute(
            "SELECT * FROM item_records WHERE batch = ? AND position > ? ORDER BY position LIMIT ?",
            (batch.number, after_position, limit),
        )
        return [item_of(row) for row in rows.fetchall()]

    def count_items(self) -> dict[ItemState, int]:
        """All items by their state; every state that is stored is there."""
        counts = dict(self._db.execute("SELECT state, COUNT(*) FROM items GROUP BY state").fetchall())
        return {state: counts.get(state, 0) for state in ItemState if state is not ItemState.RUNNING}

    def ended_after(self, batch_number: int, sequence: int, limit: int) -> list[ItemRecord]:
        """Items that ended after a sequence, in the order of their ends."""
        rows = self._db.execute(
            "SELECT * FROM item_records WHERE batch = ? AND sequence > ? ORDER BY sequence LIMIT ?",
            (batch_number, sequence, limit),
        )
        return [item_of(row) for row in rows.fetchall()]

    def report(self, item_number: int) -> bytes:
        """The serialised report of an item; empty when it has none."""
        row = self._db.execute("SELECT report FROM reports WHERE item = ?", (item_number,)).fetchone()
        return row[0] if row else b""

    def find_item(self, batch_id: str, position: int) -> ItemRecord:
        """An item by its position.

        Raises:
            MaifsError: UNKNOWN_BATCH, UNKNOWN_REPORT.
        """
        found = self.items(batch_id, position - 1, 1)
        if not found or found[0].position != position:
            raise MaifsError(
                Reason.UNKNOWN_REPORT,
                f"The batch {batch_id!r} has no item {position}.",
                "ListBatchItems shows its items.",
            )
        return found[0]

    def find_content(self, sha256: bytes, batch_id: str = "", prefix: str = "") -> tuple[str, ItemRecord]:
        """The newest item with a report on this content, and its batch's id; `prefix` as in `batches`.

        Raises:
            MaifsError: UNKNOWN_REPORT.
        """
        row = self._db.execute(
            "SELECT batch_id, item_records.* FROM item_records JOIN batches ON batches.number = batch"  # noqa: S608
            f" WHERE sha256 = :sha256 AND state = 3 AND (:batch_id = '' OR batch_id = :batch_id) AND {_OWNED}"
            " ORDER BY end_time_ns DESC LIMIT 1",
            {"sha256": sha256, "batch_id": batch_id, "prefix": prefix},
        ).fetchone()
        if row is None:
            raise MaifsError(
                Reason.UNKNOWN_REPORT,
                f"There is no report on the content with SHA-256 {sha256.hex()[:16]}….",
                "It was not analysed in a batch, or its batch is older than the journal keeps.",
            )
        return str(row[0]), item_of(row[1:])
