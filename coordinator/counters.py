"""How many pictures are open, done and failed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from serving.errors import MaifsError, Reason

if TYPE_CHECKING:  # the metrics show the batches, whose runner counts here
    from coordinator.metrics import CoordinatorMetrics


@dataclass
class Counters:
    """Of one coordinator since its start."""

    metrics: CoordinatorMetrics
    open: int = 0
    completed: int = 0
    failed: int = 0


@dataclass
class CallCounter:
    """The part of one call. `close` forgets the items that a broken call left open."""

    totals: Counters
    _open: set[str] = field(default_factory=set)

    def accepted(self, item_id: str) -> None:
        """An item was admitted."""
        self._open.add(item_id)
        self.totals.open += 1
        self.totals.metrics.accepted()

    def completed(self, item_id: str) -> None:
        """An item has its report."""
        self._end(item_id)
        self.totals.completed += 1

    def failed(self, item_id: str, error: MaifsError) -> None:
        """An item has its error. One that the client cancelled did not fail."""
        self._end(item_id)
        self.totals.metrics.failed(error.reason)
        if error.reason is not Reason.CANCELLED:
            self.totals.failed += 1

    def _end(self, item_id: str) -> None:
        if item_id in self._open:
            self._open.discard(item_id)
            self.totals.open -= 1

    def close(self) -> None:
        """The call is over."""
        self.totals.open -= len(self._open)
        self._open.clear()
