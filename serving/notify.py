"""What a service tells systemd: ready, status, stopping, alive, needs more time. Nothing without NOTIFY_SOCKET.

The protocol is one datagram of NAME=VALUE lines (sd_notify(3)).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping

_log = logging.getLogger(__name__)

_EXTEND_EVERY_S = 10.0
_EXTEND_BY_S = 40.0
_LONGEST_START_S = 3600.0
"""A start that takes longer hangs; systemd's own timeout then ends it."""


class Notifier:
    """A line to the service manager."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        """Opens nothing yet.

        Args:
            address: value of NOTIFY_SOCKET; a leading "@" means the abstract namespace. None: nobody listens.
            watchdog_s: seconds without a sign of life after which the manager ends the service. None: never.
        """
        self._address = None if address is None else ("\0" + address[1:] if address.startswith("@") else address)
        self._watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] | None = None) -> Notifier:
        """The manager that started this process. Takes the variables away: children must not speak for the service."""
        environ = os.environ if environ is None else environ
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, process = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_meant = process in {"", str(os.getpid())}
        return cls(address or None, int(microseconds) / 1e6 if microseconds.isdigit() and is_meant else None)

    def send(self, **fields: str | int) -> None:
        """Sends one message; names are written in capitals. A manager that does not listen is no failure."""
        if self._address is None:
            return
        message = "\n".join(f"{name.upper()}={_one_line(value)}" for name, value in fields.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(1.0)
                line.connect(self._address)
                line.send(message.encode())
        except OSError as error:
            _log.warning("systemd cannot be told", extra={"detail": message, "reason": str(error)})

    def ready(self, note: str = "") -> None:
        """The service serves; a note is appended to its status."""
        self.send(ready=1, status=f"serving; {note}" if note else "serving")

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self.send(status=text)

    def stopping(self, text: str, within_s: float) -> None:
        """The service ends and needs that long for it."""
        self.send(stopping=1, status=text, extend_timeout_usec=round((within_s + _EXTEND_BY_S) * 1e6))

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """While inside, the start timeout is put off and the status tells how long the start has taken."""
        async with beside(self._extend() if self._address else None):
            yield

    @contextlib.asynccontextmanager
    async def guarded(self, check_alive: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
        """While inside, the watchdog hears from the event loop as long as the service says that it works.

        Args:
            check_alive: returns when all parts work; one that raises MaifsError or does not return leaves the watchdog
                without a sign of life, and the manager ends the service.
        """
        beat = self._beat(self._watchdog_s, check_alive) if self._address and self._watchdog_s else None
        async with beside(beat):
            yield

    async def _extend(self) -> None:
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < _LONGEST_START_S:
            self.send(extend_timeout_usec=round(_EXTEND_BY_S * 1e6), status=f"starting, {elapsed:.0f} s")
            await asyncio.sleep(_EXTEND_EVERY_S)

    async def _beat(self, watchdog_s: float, check_alive: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                async with asyncio.timeout(watchdog_s):
                    await check_alive()
                self.send(watchdog=1)
            except Exception as error:  # noqa: BLE001 - whatever it is, the service does not say that it works
                reason = str(error) or f"no answer within {watchdog_s:g} s"
                _log.error("hung: the watchdog gets no sign of life", extra={"reason": reason})
                self.status(f"hung: {reason}")
            await asyncio.sleep(watchdog_s / 3)


@contextlib.asynccontextmanager
async def beside(work: object) -> AsyncIterator[None]:
    """Runs a coroutine while inside; nothing when it is None."""
    task = asyncio.ensure_future(work) if asyncio.iscoroutine(work) else None
    try:
        yield
    finally:
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _one_line(value: str | int) -> str:
    return " ".join(str(value).split())[:1000]
