"""What the journal keeps, as plain records. Times are nanoseconds since 1970 (UTC)."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from serving.errors import Reason


class ItemState(enum.IntEnum):
    """How far an item is; the numbers are those of maifs.coordinator.v1.BatchItemState.

    RUNNING is never stored: whether an item runs is known to the process that runs it, and forgotten with it.
    """

    QUEUED = 1
    RUNNING = 2
    REPORTED = 3
    FAILED = 4
    CANCELLED = 5


class BatchState(enum.IntEnum):
    """How far a batch is; the numbers are those of maifs.coordinator.v1.BatchState."""

    OPEN = 1
    RUNNING = 2
    DONE = 3
    CANCELLED = 4


PICTURE_FAULTS = frozenset(
    {
        Reason.EMPTY_FILE,
        Reason.NOT_AN_IMAGE,
        Reason.CORRUPT_IMAGE,
        Reason.DECODER_FAILED,
        Reason.IMAGE_TOO_LARGE,
        Reason.TOO_MANY_PIXELS,
    }
)
"""Failures that lie in the picture: trying again gives the same."""
_PICTURE_FAULT_NAMES = frozenset(reason.name for reason in PICTURE_FAULTS)


@dataclass(frozen=True)
class ItemKey:
    """What an item is within its batch."""

    name: str
    sha256: bytes
    """32 bytes."""
    size_bytes: int


@dataclass(frozen=True)
class BatchSettings:
    """How a batch is analysed."""

    all: bytes
    """Serialised maifs.coordinator.v1.BatchOptions."""
    fixed: bytes
    """The part that must not change while the batch exists; compared as it is."""


@dataclass(frozen=True)
class BatchRecord:
    """One batch."""

    number: int
    batch_id: str
    title: str
    options: bytes
    """Serialised maifs.coordinator.v1.BatchOptions."""
    sealed: bool
    cancelled: bool
    last_sequence: int
    create_time_ns: int
    queued_count: int
    reported_count: int
    failed_count: int
    cancelled_count: int
    end_time_ns: int | None
    """When an item last ended; None when none has."""

    @property
    def items_count(self) -> int:
        """Items in the batch."""
        return self.queued_count + self.reported_count + self.failed_count + self.cancelled_count

    @property
    def state(self) -> BatchState:
        """How far it is."""
        if self.cancelled:
            return BatchState.CANCELLED
        if not self.sealed:
            return BatchState.OPEN
        return BatchState.RUNNING if self.queued_count else BatchState.DONE


@dataclass(frozen=True)
class QueuedBatch:
    """What the work on a batch needs to know of it."""

    number: int
    batch_id: str
    options: bytes
    """As in BatchRecord."""


@dataclass(frozen=True)
class ItemRecord:
    """One item."""

    number: int
    """Identifies it over all batches, in the order of acceptance."""
    batch_number: int
    position: int
    key: ItemKey
    state: ItemState
    losses_count: int
    """Times that the vision service was lost while it had the item."""
    sequence: int
    """0 while it has not ended."""
    verdict: int
    probability: float
    reason: str
    """Name of the error's reason; empty where there is none."""
    error: bytes
    """Serialised google.rpc.Status; empty where there is none."""
    end_time_ns: int | None

    @property
    def is_settled(self) -> bool:
        """Whether it has ended and trying again would give the same: with a report, or for a fault of the picture."""
        if self.state is ItemState.FAILED:
            return self.reason in _PICTURE_FAULT_NAMES
        return self.state is ItemState.REPORTED


class Retry(enum.Enum):
    """Which items that have ended are wanted again when they are offered again."""

    NONE = enum.auto()
    UNSETTLED = enum.auto()
    """Those that are not settled."""
    ALL = enum.auto()


@dataclass(frozen=True)
class Outcome:
    """How an item ended."""

    state: ItemState
    verdict: int = 0
    probability: float = 0.0
    report: bytes = b""
    """Serialised maifs.coordinator.v1.Report; with state REPORTED."""
    error: bytes = b""
    """Serialised google.rpc.Status; otherwise."""
    reason: str = ""
    """Name of the error's reason."""
