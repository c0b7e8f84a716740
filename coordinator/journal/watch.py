"""Telling watchers that a batch changed, without waiting for any of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

PROGRESS_BUFFER = 64
"""Events of running items that wait for a slow watcher; older ones are forgotten."""


@dataclass(eq=False)
class Watch:
    """What one watcher of a batch is told."""

    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the batch or the problem has changed or there is progress."""
    progress: deque[tuple[int, Any]] = field(default_factory=lambda: deque(maxlen=PROGRESS_BUFFER))
    """Positions and events of running items."""


class Watches:
    """All watchers."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self.problem = ""
        """What holds up all batches at this moment; empty when nothing does."""
        self.closed = False
        """Set when the service drains: watchers end their calls."""

    @contextlib.contextmanager
    def watch(self, batch_id: str) -> Iterator[Watch]:
        """Being told of changes of a batch from here to the end of the context."""
        watch = Watch()
        watches = self._watches.setdefault(batch_id, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches:
                self._watches.pop(batch_id, None)

    def changed(self, batch_id: str) -> None:
        """The batch changed."""
        for watch in self._watches.get(batch_id, ()):
            watch.changed.set()

    def progress(self, batch_id: str, position: int, event: Any) -> None:
        """Something happened to a running item."""
        for watch in self._watches.get(batch_id, ()):
            watch.progress.append((position, event))
            watch.changed.set()

    def set_problem(self, problem: str) -> None:
        """Something begins or ceases to hold up all batches."""
        if problem != self.problem:
            self.problem = problem
            self._all_changed()

    def close(self) -> None:
        """No watcher will be told anything any more."""
        self.closed = True
        self._all_changed()

    def _all_changed(self) -> None:
        for batch_id in self._watches:
            self.changed(batch_id)
