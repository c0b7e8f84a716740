"""The reports of the cache on disk, so that they outlive the coordinator."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")

FILE_NAME = "cache.sqlite"
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
CREATE TABLE IF NOT EXISTS reports (
  digest TEXT PRIMARY KEY,
  report BLOB NOT NULL,
  used_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS reports_by_use ON reports (used_ns);
"""


class CacheStore:
    """A SQLite file of at most so many bytes of reports.

    Nothing depends on it: a file that cannot be used is said once, and the coordinator works without.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Opens nothing yet.

        Args:
            folder: where the file lies.
            max_bytes: of reports; those asked for longest ago go first.
        """
        self._path, self._max_bytes = folder / FILE_NAME, max_bytes
        self._thread = ThreadPoolExecutor(1, "cache")
        self._db: sqlite3.Connection | None = None
        self._held_bytes = 0
        self._broken = False

    async def find(self, digest: str) -> bytes | None:
        """The report under a name; None when there is none."""
        return await self._run(lambda db: self._find(db, digest))

    async def add(self, digest: str, report: bytes) -> None:
        """Keeps a report."""
        await self._run(lambda db: self._add(db, digest, report))

    async def close(self) -> None:
        """Closes the file."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T | None:
        if self._broken:
            return None
        try:
            with self._open() as db:
                return work(db)
        except (OSError, sqlite3.Error) as error:
            self._broken = True
            _log.warning("reports are not kept on disk", extra={"file": str(self._path), "detail": str(error)})
            return None

    def _open(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(self._path, timeout=5.0)
            self._db.executescript(_SCHEMA)
            (self._held_bytes,) = self._db.execute("SELECT COALESCE(SUM(LENGTH(report)), 0) FROM reports").fetchone()
        return self._db

    def _find(self, db: sqlite3.Connection, digest: str) -> bytes | None:
        row = db.execute("SELECT report FROM reports WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            return None
        db.execute("UPDATE reports SET used_ns = ? WHERE digest = ?", (time.time_ns(), digest))
        return bytes(row[0])

    def _add(self, db: sqlite3.Connection, digest: str, report: bytes) -> None:
        if len(report) > self._max_bytes:
            return
        known = db.execute("SELECT digest, LENGTH(report) FROM reports WHERE digest = ?", (digest,)).fetchone()
        self._remove(db, known)
        while self._held_bytes + len(report) > self._max_bytes:
            oldest = db.execute("SELECT digest, LENGTH(report) FROM reports ORDER BY used_ns LIMIT 1").fetchone()
            self._remove(db, oldest)
        db.execute("INSERT INTO reports VALUES (?, ?, ?)", (digest, report, time.time_ns()))
        self._held_bytes += len(report)

    def _remove(self, db: sqlite3.Connection, row: tuple[str, int] | None) -> None:
        if row is not None:
            db.execute("DELETE FROM reports WHERE digest = ?", (row[0],))
            self._held_bytes -= row[1]

    def _close(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        self._broken = True
