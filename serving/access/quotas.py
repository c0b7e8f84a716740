"""How much a client may ask for: items and bytes a minute, and items open at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from serving.errors import MaifsError, Reason

_OPEN_RETRY_S = 1.0
_MINUTE_S = 60.0


@dataclass(frozen=True)
class Quota:
    """Limits of one client over all its calls; 0: none.

    An item is a picture, or a request to the language model.
    """

    items_per_minute: int = 0
    """On average; so many may come at once after a minute of silence."""
    bytes_per_minute: int = 0
    """Of encoded files, likewise. A file that is larger alone passes after a minute of silence."""
    open_items: int = 0
    """Items without their end yet."""

    def faults(self) -> list[str]:
        """See serving.config."""
        return [
            f"{field.name} = {getattr(self, field.name)}: must be at least 0"
            for field in fields(self)
            if getattr(self, field.name) < 0
        ]


UNLIMITED = Quota()


class _Bucket:
    """A token bucket that holds a minute's worth; one item may overdraw it, which is paid off before the next."""

    def __init__(self) -> None:
        self._level: float | None = None
        self._time = 0.0

    def wait_s(self, amount: int, per_minute: int, now: float) -> float:
        """Seconds until so much may be taken; 0 when it may now."""
        if self._level is None:
            self._level = float(per_minute)
        else:
            self._level = min(per_minute, self._level + (now - self._time) * per_minute / _MINUTE_S)
        self._time = now
        return max(0.0, min(amount, per_minute) - self._level) * _MINUTE_S / per_minute

    def take(self, amount: int) -> None:
        """To be called after `wait_s` answered 0."""
        if self._level is not None:
            self._level -= amount


class Account:
    """What one client has taken."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._items, self._bytes = _Bucket(), _Bucket()
        self.open_items = 0

    def open(self, client: str, quota: Quota, size_bytes: int) -> None:
        """Lets an item in.

        Raises:
            MaifsError: QUOTA_EXCEEDED with the time to wait.
        """
        if quota.open_items and self.open_items >= quota.open_items:
            raise _exceeded(client, f"has {self.open_items} items open, its quota", _OPEN_RETRY_S)
        now = self._clock()
        rates = (
            (self._items, 1, quota.items_per_minute, "items"),
            (self._bytes, size_bytes, quota.bytes_per_minute, "bytes"),
        )
        limited = [rate for rate in rates if rate[2]]
        for bucket, amount, per_minute, unit in limited:
            wait_s = bucket.wait_s(amount, per_minute, now)
            if wait_s > 0:
                raise _exceeded(client, f"is above its quota of {per_minute:,} {unit} a minute", wait_s)
        for bucket, amount, _, _ in limited:
            bucket.take(amount)
        self.open_items += 1

    def close(self) -> None:
        """An item that was let in has ended."""
        self.open_items -= 1


def _exceeded(client: str, what: str, wait_s: float) -> MaifsError:
    return MaifsError(
        Reason.QUOTA_EXCEEDED,
        f"The client {client!r} {what}.",
        "Send the item again after the delay.",
        retry_after_s=max(0.1, math.ceil(wait_s * 10) / 10),
    )
