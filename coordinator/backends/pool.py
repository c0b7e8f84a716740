"""Several backends of one service: work goes to the one that has least, in turns that are fair to the clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Generic

from coordinator.backends.backend import Backend, C, Health, cancelled
from coordinator.backends.fair_queue import FairQueue, Turn
from coordinator.backends.watch import watch
from serving.errors import MaifsError, Reason

ABSENT_S = 20.0
"""A process that is starting answers health long before this."""
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
    async def slot(self, turn: Turn) -> AsyncIterator[Backend[C]]:
        """A place at a backend, when it is this turn's.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE at once when every backend hangs.
        """
        waiter: _Waiter[C] = _Waiter(turn)
        self._queue.push(turn, waiter)
        self._serve()
        try:
            backend = await waiter.backend
        except asyncio.CancelledError:
            self._leave(waiter)
            raise
        try:
            yield backend
        finally:
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
            usable = [backend for backend in self.backends if not backend.refusing]
            if not usable:
                self._queue.pop().backend.set_exception(self._refusal())
                continue
            best = min(backend.tier for backend in usable)
            free = [b for b in usable if b.tier == best and b.open_calls < b.capacity]
            if not free:
                return
            backend = min(free, key=lambda b: b.open_calls / b.capacity)
            waiter = self._queue.pop()
            if not waiter.backend.cancelled():
                backend.open_calls += 1
                waiter.backend.set_result(backend)

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
