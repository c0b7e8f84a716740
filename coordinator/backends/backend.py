"""One backend at one address: its health, its load, and whether it gets work."""

from __future__ import annotations

import asyncio
import enum
import hashlib
import logging
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)

FIRST_PROBE_S = 0.5
LAST_PROBE_S = 30.0
"""Time between a suspension and the first probe, which doubles with each probe that fails, up to this."""


class Health(enum.Enum):
    """What the backend's health service said last."""

    UNKNOWN = "unknown"
    """Not heard of yet."""
    SERVING = "serving"
    NOT_SERVING = "not serving"
    """Starting or draining."""
    UNREACHABLE = "unreachable"


class Client(Protocol):
    """What a backend needs of the client that calls it."""

    @property
    def address(self) -> str:
        """Where it is."""

    @property
    def channel(self) -> grpc.aio.Channel:
        """Connection to it."""

    async def identify(self) -> str:
        """Versions of everything that its answers depend on, in one line. Raises MaifsError."""

    async def probe(self) -> None:
        """Passes one small request through it. Raises MaifsError when that fails."""

    async def close(self) -> None:
        """Closes the connection."""


C = TypeVar("C", bound=Client)


class Backend(Generic[C]):
    """A backend and what is known of it.

    A call that finds it unavailable suspends it: others are preferred until a probe has passed. So many timeouts in a
    row suspend it too, and where `refuse_when_hung` is set it then gets no work at all, so that nobody waits in vain.
    """

    def __init__(self, client: C, capacity: int, *, max_timeouts: int, refuse_when_hung: bool) -> None:
        """Takes a client over.

        Args:
            client: how to call it.
            capacity: most calls at a time.
            max_timeouts: timeouts in a row that suspend it.
            refuse_when_hung: whether it then gets no work even when there is no other.
        """
        self.client, self.capacity = client, capacity
        self._max_timeouts, self._refuse_when_hung = max_timeouts, refuse_when_hung
        self.health = Health.UNKNOWN
        self.identity = ""
        """What it said of its versions when it was last seen serving; empty before."""
        self.open_calls = 0
        self.suspended = ""
        """Why it gets no work; empty when it gets some."""
        self.refusing = False
        """Suspended, and not to be used even when there is no other."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when it may be able to take more or less work than before."""
        self._timeouts = 0
        self._probing: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """Where it is."""
        return self.client.address

    @property
    def tier(self) -> int:
        """0: serving; 1: not heard of yet; 2: only when there is no other."""
        if self.suspended or self.health in {Health.NOT_SERVING, Health.UNREACHABLE}:
            return 2
        return 0 if self.health is Health.SERVING else 1

    def set_health(self, health: Health) -> None:
        """Takes note of what its health service says. A backend that comes back starts with a clean slate."""
        if health is self.health:
            return
        _log.info("backend health", extra={"backend": self.address, "health": health.value, "was": self.health.value})
        came_back = health is Health.SERVING and self.health in {Health.NOT_SERVING, Health.UNREACHABLE}
        self.health = health
        if came_back:
            self._resume()
        self.on_change()

    def succeeded(self) -> None:
        """A call ended well, or with a fault that is not the backend's."""
        self._timeouts = 0
        if self.suspended:
            self._resume()

    def failed(self, error: MaifsError) -> None:
        """A call ended with an error of the backend."""
        if error.reason is Reason.BACKEND_UNAVAILABLE:
            self._suspend(error.message, refuse=False)
        elif error.reason is not Reason.DEADLINE_EXCEEDED:
            self.succeeded()

    def timed_out(self) -> None:
        """A call got no answer in the time that an answer may take."""
        self._timeouts += 1
        if self._timeouts >= self._max_timeouts:
            self._suspend(f"it did not answer {self._timeouts} times in a row", refuse=self._refuse_when_hung)

    def _suspend(self, reason: str, *, refuse: bool) -> None:
        if not self.suspended or refuse > self.refusing:
            _log.warning("backend suspended", extra={"backend": self.address, "detail": reason, "refusing": refuse})
            self.suspended, self.refusing = reason, refuse
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
        self.on_change()

    def _resume(self) -> None:
        if self.suspended:
            _log.info("backend resumed", extra={"backend": self.address})
        self.suspended, self.refusing, self._timeouts = "", False, 0
        self.on_change()

    async def _probe(self) -> None:
        delay = FIRST_PROBE_S
        while self.suspended:
            await asyncio.sleep(delay)
            delay = min(delay * 2, LAST_PROBE_S)
            try:
                await self.client.probe()
            except MaifsError as error:
                _log.info("probe failed", extra={"backend": self.address, "detail": error.message})
            else:
                self._resume()

    async def close(self) -> None:
        """Ends the probing and closes the connection."""
        await cancelled(self._probing)
        await self.client.close()


def digest_of(message: Message) -> str:
    """A short name for everything that a message says, 16 hexadecimal digits."""
    return hashlib.sha256(message.SerializeToString(deterministic=True)).hexdigest()[:16]


async def cancelled(task: asyncio.Task[None] | None) -> None:
    """Ends a task and waits until it has ended."""
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
