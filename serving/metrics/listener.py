"""GET /metrics over HTTP/1.1 on the service's own event loop: a UNIX socket or TCP, one answer a connection."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress

from prometheus_client import CONTENT_TYPE_LATEST

from serving.address import SocketLock, socket_path
from serving.errors import MaifsError, Reason
from serving.metrics.config import MetricsConfig

_log = logging.getLogger(__name__)

PATH = "/metrics"
_MAX_HEAD_BYTES = 8192
_TIMEOUT_S = 15.0
_MAX_CONNECTIONS = 8
"""Prometheus opens one; what more than a few want at a time is not metrics."""

Text = Callable[[], Awaitable[bytes]]


class Exposition:
    """Shows metrics between `open` and `close`; does nothing where no address is configured.

    Args:
        config: where.
        text: makes the page.
    """

    def __init__(self, config: MetricsConfig, text: Text) -> None:
        self._address, self._pages = config.address, _Pages(text)
        path = socket_path(config.address)
        self._lock = SocketLock(path) if path else None
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Begins to listen.

        Raises:
            MaifsError: ADDRESS_IN_USE; OUTPUT_UNWRITABLE where the socket's folder cannot be used.
        """
        if not self._address:
            return
        if self._lock:
            self._lock.acquire()
        self._server = await _listen(self._address, self._pages)
        name = self._server.sockets[0].getsockname()
        _log.info("metrics", extra={"address": self._address if self._lock else f"{name[0]}:{name[1]}"})

    async def close(self) -> None:
        """Ends to listen."""
        if self._server:
            self._server.close()
            await self._server.wait_closed()
        if self._lock:
            self._lock.release()


async def _listen(address: str, pages: _Pages) -> asyncio.Server:
    path = socket_path(address)
    try:
        if path is None:
            host, _, port = address.rpartition(":")
            return await asyncio.start_server(pages.serve, host.strip("[]"), int(port), limit=_MAX_HEAD_BYTES)
        server = await asyncio.start_unix_server(pages.serve, path, limit=_MAX_HEAD_BYTES)
        path.chmod(0o660)
    except OSError as error:
        raise MaifsError(
            Reason.ADDRESS_IN_USE,
            f"Cannot show metrics on {address}: {os.strerror(error.errno or 0)}.",
            "Another process may be using it; choose another address (server.metrics.address).",
        ) from error
    return server


class _Pages:
    """Answers connections."""

    def __init__(self, text: Text) -> None:
        self._text, self._places = text, asyncio.Semaphore(_MAX_CONNECTIONS)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: one request, one answer."""
        try:
            with suppress(OSError, TimeoutError):
                async with asyncio.timeout(_TIMEOUT_S):
                    status, body = await self._answer(reader)
                    writer.write(_head(status, len(body)) + body)
                    await writer.drain()
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        if self._places.locked():
            return "503 Service Unavailable", b""
        async with self._places:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                method, target, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
            except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
                return "400 Bad Request", b""
            if method != "GET":
                return "405 Method Not Allowed", b""
            if target.partition("?")[0] != PATH:
                return "404 Not Found", f"The metrics are at {PATH}\n".encode()
            return "200 OK", await self._text()


def _head(status: str, size_bytes: int) -> bytes:
    kind = CONTENT_TYPE_LATEST if status.startswith("200") else "text/plain; charset=utf-8"
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {size_bytes}\r\nConnection: close\r\n\r\n"
    ).encode("ascii")
