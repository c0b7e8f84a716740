"""Backends that come and go: their addresses stand in a file that somebody else keeps, an orchestrator say."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from coordinator.backends.backend import Backend, C
from coordinator.backends.pool import Pool
from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)
LOOK_EVERY_S = 1.0
_MOST_BYTES = 64 * 1024


def read_addresses(file: Path) -> tuple[str, ...]:
    """The addresses that a file holds: one a line, each once; empty lines and lines that begin with # do not count.

    Raises:
        MaifsError: INVALID_CONFIG when it cannot be read or holds something else.
    """
    try:
        with file.open("rb") as opened:
            text = opened.read(_MOST_BYTES + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise MaifsError(Reason.INVALID_CONFIG, f"The addresses in {file} cannot be read: {error}.") from error
    if len(text) > _MOST_BYTES:
        raise MaifsError(Reason.INVALID_CONFIG, f"{file} has more than {_MOST_BYTES:,} bytes.")
    lines = [line.strip() for line in text.splitlines()]
    found = tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    for address in found:
        host, _, port = address.rpartition(":")
        if not address.startswith("unix:/") and not (host and port.isdigit() and " " not in host):
            raise MaifsError(
                Reason.INVALID_CONFIG,
                f"{file}: {address[:100]!r} is no address.",
                "Write unix:/absolute/path or host:port, one a line.",
            )
    return found


async def follow(file: Path, pool: Pool[C], make: Callable[[str], Backend[C]]) -> None:
    """Keeps a pool to the addresses in a file until it is cancelled, from the addresses on that it has.

    A file that is missing or broken changes nothing, and is told in the log once: a writer that fails half-way must not
    take the backends away. Writers should replace the file (write another, then rename it).
    """
    complaint = ""
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        try:
            found = await asyncio.to_thread(read_addresses, file)
        except MaifsError as error:
            if str(error) != complaint:
                complaint = str(error)
                _log.error("addresses unchanged", extra={"detail": complaint})
        else:
            complaint = ""
            if found != tuple(backend.address for backend in pool.backends):
                _log.info("addresses", extra={"service": pool.name, "addresses": ", ".join(found) or "none"})
                pool.replace(found, make)
