"""Files that are read again when they change, while the service runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from serving.errors import MaifsError

_log = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_EVERY_S = 1.0
"""Seconds from look to look. A change takes effect at the second look that finds the files the same."""

Marks = tuple[tuple[int, int, int] | None, ...]


class Reloaded(Generic[T]):
    """What was last read well from some files."""

    def __init__(self, what: str, paths: Sequence[Path], load: Callable[[], T]) -> None:
        """Reads the files.

        Args:
            what: for the log, e.g. "TLS certificate".
            paths: files whose change matters; links are followed.
            load: reads them all; raises MaifsError for files that are no good.

        Raises:
            MaifsError: what `load` raised.
        """
        self.what, self._paths, self._load = what, tuple(paths), load
        self._loaded = self._seen = self._marks()
        self.value = load()

    def look(self) -> bool:
        """Reads files that have changed and changed no more since the last look; True when `value` is new.

        Files that are no good leave `value` as it is, with a line in the log. A renewal replaces several files one
        after the other, hence the second look.
        """
        marks = self._marks()
        if marks == self._loaded:
            self._seen = marks
            return False
        if marks != self._seen:
            self._seen = marks
            return False
        self._loaded = marks
        try:
            self.value = self._load()
        except MaifsError as error:
            _log.error("%s: new files refused, the old ones stay in force: %s", self.what, error)
            return False
        _log.info("%s: new files are in force", self.what)
        return True

    def _marks(self) -> Marks:
        return tuple(_mark(path) for path in self._paths)


def _mark(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


async def keep_fresh(files: Iterable[Reloaded[Any]]) -> None:
    """Looks until it is cancelled; reading happens in a thread."""
    watched = tuple(files)
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for each in watched:
            try:
                await asyncio.to_thread(each.look)
            except Exception:  # noqa: BLE001 - a fault here must not end renewals for good
                _log.exception("%s: looking at the files failed", each.what)
