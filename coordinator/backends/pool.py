"""Several backends of one service: work goes to the one that has least, in turns that are fair to the clients."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic

from coordinator.backends.backend import Backend, C, Health, cancelled
from coordinator.backends.fair_queue import FairQueue, Turn
from coordinator.backends.pace import HEADROOM, Pace
from coordinator.backends.watch import watch
from serving.errors import MaifsError, Reason

ABSENT_S = 20.0
"""A process that is starting answers health long before this."""
RETRY_S = (1.0, 30.0)
"""Least and most that a call is told to wait which would have come too late."""
_STATUS_ADVICE = "See that it runs (coordinator-cli status)."


@dataclass(eq=False)
class _Waiter(Generic[C]):
    turn: Turn
    backend: asyncio.Future[Backend[C]] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    since: float = field(default_factory=lambda: asyncio.get_running_loop().time())


class Pool(Generic[C]):
    """The backends of one service."""

    def __init__(self, name: str, backends: Sequence[Backend[C]]) -> None:
        """Takes backends over.

        Args:
            name: of the service, for messages, e.g. "The vision service".
            backends: those known from the start.
        """
        self.name, self.backends = name, tuple(backends)
        self._queue: FairQueue[_Waiter[C]] = FairQueue()
        self._pace = Pace()
        self._changed = asyncio.Event()
        self._watches: dict[Backend[C], asyncio.Task[None]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        for backend in self.backends:
            backend.on_change = self._on_change

    @property
    def waiting(self) -> int:
        """Those that wait for their turn."""
        return len(self._queue)

    def oldest_waiting_s(self) -> float:
        """For how long the first of those has waited; 0 when nobody does."""
        now = asyncio.get_running_loop().time()
        return max((now - waiter.since for waiter in self._queue.firsts()), default=0.0)

    def expected_wait_s(self, turn: Turn) -> float:
        """Seconds until a call that came now would have a place; 0 when one is free or nothing was measured yet."""
        best = self._best()
        places = sum(backend.capacity for backend in best)
        if not places:
            return 0.0
        return self._pace.wait_s(self._queue.ahead(turn), sum(backend.open_calls for backend in best), places)

    def refuse_if_late(self, turn: Turn, deadline: float) -> None:
        """Refuses a call at once that would not end in time, so that no work is spent on it and it can go elsewhere.

        A call that finds a free place is never refused, whatever was measured before.

        Args:
            turn: for whom.
            deadline: moment by the event loop's clock at which the client gives up.

        Raises:
            MaifsError: QUEUE_FULL with the time after which the queue is short enough, if nothing else comes.
        """
        wait_s = HEADROOM * self.expected_wait_s(turn)
        if deadline == math.inf or wait_s <= 0:
            return
        left_s = deadline - asyncio.get_running_loop().time()
        late_s = wait_s + HEADROOM * self._pace.held_s - left_s
        if late_s > 0:
            raise MaifsError(
                Reason.QUEUE_FULL,
                f"{self.name} has {len(self._queue):,} waiting; this one would begin in about {wait_s:.1f} s, and the "
                f"deadline is in {max(left_s, 0.0):.1f} s.",
                "Send it again after the delay, with a later deadline, or to another coordinator.",
                retry_after_s=min(max(late_s, RETRY_S[0]), RETRY_S[1]),
            )

    def start(self) -> None:
        """Begins to watch the backends' health."""
        self._watches = {backend: asyncio.ensure_future(watch(backend)) for backend in self.backends}

    def replace(self, addresses: Collection[str], make: Callable[[str], Backend[C]]) -> None:
        """Has exactly the backends at these addresses from now on; those that are known already stay as they are.

        One that is no longer named gets no more work, ends what it has, and is then closed. Call it after `start`.

        Args:
            addresses: where they are.
            make: makes a backend that is new.
        """
        gone = [backend for backend in self.backends if backend.address not in addresses]
        kept = {backend.address: backend for backend in self.backends if backend not in gone}
        self.backends = tuple(kept.get(address) or make(address) for address in addresses)
        for backend in self.backends:
            if backend not in self._watches:
                backend.on_change = self._on_change
                self._watches[backend] = asyncio.ensure_future(watch(backend))
        for backend in gone:
            self._close_if_idle(backend)
        self._on_change()

    def _close_if_idle(self, backend: Backend[C]) -> None:
        """Closes a backend that was taken out once its last call has ended."""
        if backend not in self.backends and not backend.open_calls:
            task = asyncio.ensure_future(self._close(backend))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def _close(self, backend: Backend[C]) -> None:
        await cancelled(self._watches.pop(backend, None))
        await backend.close()

    def identities(self) -> frozenset[str]:
        """What the backends said of their versions when they were last seen serving."""
        return frozenset(backend.identity for backend in self.backends if backend.identity)

    def has_other(self, backend: Backend[C]) -> bool:
        """Whether another backend is known to serve."""
        return any(other is not backend and other.tier == 0 for other in self.backends)

    @asynccontextmanager
    async def slot(self, turn: Turn, deadline: float = math.inf) -> AsyncIterator[Backend[C]]:
        """A place at a backend, when it is this turn's.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE at once when every backend hangs; as `refuse_if_late`.
        """
        self.refuse_if_late(turn, deadline)
        waiter: _Waiter[C] = _Waiter(turn)
        self._queue.push(turn, waiter)
        self._serve()
        try:
            backend = await waiter.backend
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        clock = asyncio.get_running_loop().time
        start, well = clock(), False
        try:
            yield backend
            well = True
        finally:
            self._pace.ended(clock() - start, well=well)
            self._release(backend)

    def _leave(self, waiter: _Waiter[C]) -> None:
        given = waiter.backend
        if self._queue.remove(waiter.turn, waiter) or not given.done() or given.cancelled():
            return
        if given.exception() is None:
            self._release(given.result())

    def _release(self, backend: Backend[C]) -> None:
        backend.open_calls -= 1
        self._close_if_idle(backend)
        self._serve()

    def _on_change(self) -> None:
        self._changed.set()
        self._serve()

    def _serve(self) -> None:
        """Gives out every place that there is."""
        while self._queue:
            best = self._best()
            if not best:
                self._queue.pop().backend.set_exception(self._refusal())
                continue
            free = [backend for backend in best if backend.open_calls < backend.capacity]
            if not free:
                return
            backend = min(free, key=lambda b: b.open_calls / b.capacity)
            waiter = self._queue.pop()
            if not waiter.backend.cancelled():
                backend.open_calls += 1
                waiter.backend.set_result(backend)

    def _best(self) -> list[Backend[C]]:
        """Those that get work now; none when every one hangs."""
        usable = [backend for backend in self.backends if not backend.refusing]
        tier = min((backend.tier for backend in usable), default=0)
        return [backend for backend in usable if backend.tier == tier]

    def _refusal(self) -> MaifsError:
        told = "; ".join(f"{backend.address}: {backend.suspended}" for backend in self.backends)
        what = f"gets no work until it answers a probe ({told})" if told else "has no address at this moment"
        return MaifsError(Reason.BACKEND_UNAVAILABLE, f"{self.name} {what}.", _STATUS_ADVICE)

    async def wait_serving(self, timeout_s: float) -> None:
        """Waits until a backend serves.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE when none does in time, or none is there at all for `ABSENT_S`.
        """
        clock = asyncio.get_running_loop().time
        start = seen = clock()
        while not any(backend.health is Health.SERVING for backend in self.backends):
            now = clock()
            if any(backend.health is Health.NOT_SERVING for backend in self.backends):
                seen = now
            left = min(start + timeout_s, seen + ABSENT_S) - now
            if left <= 0:
                message = f"{self.name} was not ready after {now - start:.0f} s."
                raise MaifsError(Reason.BACKEND_UNAVAILABLE, message, _STATUS_ADVICE)
            self._changed.clear()
            try:
                async with asyncio.timeout(min(left, 1.0)):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Ends the watching and closes the connections."""
        await asyncio.gather(*self._closing)
        for backend in {*self.backends, *self._watches}:
            await self._close(backend)
