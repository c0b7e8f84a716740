"""The journal's database: its tables, and how an older one becomes today's."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

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

DATABASE_NAME = "journal.sqlite"
"""Name of the database within the journal's folder."""

_BUSY_TIMEOUT_S = 30.0


def open_database(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Opens the journal for the coordinator; a writer makes it or brings it up to date first.

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


def open_stored(path: Path) -> sqlite3.Connection:
    """Opens the journal of a coordinator that runs, was killed or has ended, to read what was committed.

    Raises:
        MaifsError: NO_JOURNAL when there is none; JOURNAL_UNUSABLE when it is damaged, of another version, or not
            readable.
    """
    if not path.is_file():
        raise MaifsError(
            Reason.NO_JOURNAL,
            f"There is no journal {path}.",
            "Name the folder of an `analyze --out` that started services of its own; a coordinator that was running "
            "has its batches itself.",
        )
    try:
        connection = _connect_stored(path)
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.Error as error:
        raise _unusable(path, error) from error
    if version != len(MIGRATIONS):
        connection.close()
        raise _other_version(path, version)
    return connection


def _connect_stored(path: Path) -> sqlite3.Connection:
    """Without the right to write beside it, a journal that no coordinator has open can be read all the same."""
    location = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _connected(location)
    except sqlite3.OperationalError:
        if path.with_name(f"{path.name}-wal").exists():
            raise
        return _connected(f"{location}&immutable=1")


def _connected(location: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        location, uri=True, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_schema").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _unusable(path: Path, error: BaseException) -> MaifsError:
    if (getattr(error, "sqlite_errorname", "") or "").startswith("SQLITE_FULL"):
        return MaifsError(
            Reason.JOURNAL_UNUSABLE,
            f"The journal {path} cannot be opened: the disk is full.",
            "Make room on its disk and start again; nothing in the journal is lost.",
        )
    return MaifsError(
        Reason.JOURNAL_UNUSABLE,
        f"The journal {path} cannot be used: {error}.",
        "Check the folder's permissions and room. A damaged journal can be moved aside; its batches must then be "
        "submitted again.",
    )


def _other_version(path: Path, version: int) -> MaifsError:
    return MaifsError(
        Reason.JOURNAL_UNUSABLE,
        f"The journal {path} has version {version}; this program knows version {len(MIGRATIONS)}.",
        "Use the program that made it, or another state_folder."
        if version > len(MIGRATIONS)
        else "Run the `analyze` that made it once more: its coordinator brings it up to date.",
    )


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Runs the scripts that are missing, each in a transaction of its own."""
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise _other_version(path, version)
    for number in range(version, len(MIGRATIONS)):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
