"""Which pictures are let in: encoded bytes that the coordinator holds, shared so that no client shuts others out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from serving.errors import MaifsError, Reason

RETRY_AFTER_S = 1.0
"""Delay that a refused client is told."""


class Admission:
    """Bytes and number of the pictures held over all calls; what does not fit is refused at once.

    A client that holds something already may grow to as much as is left free for others. A single greedy client thus
    gets half of all, two get a third each, and a newcomer always finds room (dynamic thresholds with alpha = 1,
    Choudhury and Hahne, IEEE/ACM Transactions on Networking 6(2), 1998).
    """

    def __init__(self, max_bytes: int, max_items: int) -> None:
        self.max_bytes, self._max_items = max_bytes, max_items
        self.held_bytes = self.held_items = 0
        self._by_client: Counter[str] = Counter()

    def share(self, client: str, check: Callable[[], None] = lambda: None) -> Share:
        """The part of one client; `check` is called before each picture and may refuse it."""
        return Share(self, client, check)

    def reserve(self, client: str, size_bytes: int) -> None:
        """Lets a picture in.

        Raises:
            MaifsError: QUEUE_FULL with a time to wait.
        """
        own, free = self._by_client[client], self.max_bytes - self.held_bytes
        if size_bytes > free or (own and own + size_bytes > free):
            raise _full(
                f"The coordinator holds {self.held_bytes:,} of at most {self.max_bytes:,} bytes of pictures, {own:,} "
                f"of them from this client; {size_bytes:,} more would be beyond its share."
            )
        if self.held_items >= self._max_items:
            raise _full(f"The coordinator holds {self.held_items:,} pictures, its limit.")
        self.held_bytes += size_bytes
        self.held_items += 1
        self._by_client[client] += size_bytes

    def release(self, client: str, size_bytes: int) -> None:
        """A picture is gone."""
        self.held_bytes -= size_bytes
        self.held_items -= 1
        self._by_client[client] -= size_bytes
        if not self._by_client[client]:
            del self._by_client[client]


class Share:
    """What `serving.item_stream.ItemStream` asks for room."""

    def __init__(self, admission: Admission, client: str, check: Callable[[], None]) -> None:
        self._admission, self._client, self._check = admission, client, check

    def reserve(self, size_bytes: int) -> None:
        """See Admission.reserve."""
        self._check()
        self._admission.reserve(self._client, size_bytes)

    def release(self, size_bytes: int) -> None:
        """See Admission.release."""
        self._admission.release(self._client, size_bytes)


def _full(message: str) -> MaifsError:
    return MaifsError(Reason.QUEUE_FULL, message, "Send the item again after the delay.", retry_after_s=RETRY_AFTER_S)
