"""The journal's database: its tables, and how an older one becomes today's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from serving.errors import MaifsError, Reason

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE batches (
        number INTEGER PRIMARY KEY,
        batch_id TEXT NOT NULL UNIQUE,
        title TEXT NOT NULL,
        fixed_options BLOB NOT NULL,
        options BLOB NOT NULL,
        sealed INTEGER NOT NULL DEFAULT 0,
        cancelled INTEGER NOT NULL DEFAULT 0,
        last_sequence INTEGER NOT NULL DEFAULT 0,
        last_position INTEGER NOT NULL DEFAULT 0,
        create_time_ns INTEGER NOT NULL
    );
    CREATE TABLE items (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        batch INTEGER NOT NULL REFERENCES batches ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        sha256 BLOB NOT NULL,
        size_bytes INTEGER NOT NULL,
        state INTEGER NOT NULL,
        losses_count INTEGER NOT NULL DEFAULT 0,
        sequence INTEGER,
        verdict INTEGER NOT NULL DEFAULT 0,
        probability REAL NOT NULL DEFAULT 0,
        reason TEXT NOT NULL DEFAULT '',
        error BLOB NOT NULL DEFAULT x'',
        end_time_ns INTEGER,
        UNIQUE (batch, name, sha256),
        UNIQUE (batch, position),
        UNIQUE (batch, sequence),
        CHECK ((state = 1) = (sequence IS NULL))
    );
    CREATE INDEX items_by_state ON items (batch, state);
    CREATE INDEX items_queued ON items (batch, number) WHERE state = 1;
    CREATE INDEX items_by_content ON items (sha256);
    CREATE TABLE reports (
        item INTEGER PRIMARY KEY REFERENCES items ON DELETE CASCADE,
        report BLOB NOT NULL
    );
    CREATE VIEW item_records AS
        SELECT number, batch, position, name, sha256, size_bytes, state, losses_count, IFNULL(sequence, 0) AS sequence,
            verdict, probability, reason, error, end_time_ns
        FROM items;
    CREATE VIEW batch_records AS
        SELECT number, batch_id, title, options, sealed, cancelled, last_sequence, create_time_ns,
            (SELECT COUNT(*) FROM items WHERE batch = batches.number AND state = 1) AS queued_count,
            (SELECT COUNT(*) FROM items WHERE batch = batches.number AND state = 3) AS reported_count,
            (SELECT COUNT(*) FROM items WHERE batch = batches.number AND state = 4) AS failed_count,
            (SELECT COUNT(*) FROM items WHERE batch = batches.number AND state = 5) AS cancelled_count,
            (SELECT MAX(end_time_ns) FROM items WHERE batch = batches.number) AS end_time_ns
        FROM batches;
    """,
)
"""Scripts by version: the first makes version 1 of an empty database. Released scripts never change."""

_BUSY_TIMEOUT_S = 30.0


def open_database(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens the journal for the thread that calls; a writer makes it or brings it up to date first.

    WAL mode keeps readers and the writer out of each other's way, and synchronous=FULL puts every commit on the disk
    before it returns.

    Raises:
        MaifsError: JOURNAL_UNUSABLE when it is damaged, of a newer version, or cannot be written.
    """
    try:
        connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    try:
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
        else:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before the first table: pruning gives room back
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            _migrate(connection, path)
    except sqlite3.Error as error:
        connection.close()  # and with it a migration that was not finished
        raise _unusable(path, error) from error
    except MaifsError:
        connection.close()
        raise
    return connection


def _unusable(path: Path, error: BaseException) -> MaifsError:
    return MaifsError(
        Reason.JOURNAL_UNUSABLE,
        f"The journal {path} cannot be used: {error}.",
        "Check the folder's permissions and room. A damaged journal can be moved aside; its batches must then be "
        "submitted again.",
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Runs the scripts that are missing, each in a transaction of its own."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise MaifsError(
            Reason.JOURNAL_UNUSABLE,
            f"The journal {path} has version {version}; this coordinator knows versions up to {len(MIGRATIONS)}.",
            "Use the newer coordinator that made it, or another state_folder.",
        )
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
