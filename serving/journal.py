"""Logs for systemd's journal in its own protocol: each field can be searched, e.g. `journalctl MAIFS_REQUEST_ID=...`.

One datagram of fields per record (systemd's "Native Journal Protocol"): NAME=VALUE lines, or for values with line ends
the name, a length of 64 bits little-endian, and the value.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

SOCKET = Path("/run/systemd/journal/socket")
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7))
"""Lowest level for each of syslog's priorities."""
_MOST_BYTES = 64 * 1024
"""A longer value is cut: a datagram has room for about 200 KiB."""


def under_journal() -> bool:
    """Whether standard error goes to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    if not device or not SOCKET.exists():
        return False
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


class JournalHandler(logging.Handler):
    """Sends records to the journal.

    Args:
        service: name of the program.
        fields_of: the record's own fields, which become MAIFS_<NAME>.
        address: where the journal listens.
    """

    def __init__(
        self, service: str, fields_of: Callable[[logging.LogRecord], Mapping[str, Any]], address: Path = SOCKET
    ) -> None:
        super().__init__()
        self._service, self._fields_of, self._address = service, fields_of, str(address)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        """See class. A record that the journal does not take goes to standard error."""
        try:
            self._socket.sendto(b"".join(map(_encoded, self._entries(record).items())), self._address)
        except OSError:
            print(self.format(record), file=sys.stderr)

    def _entries(self, record: logging.LogRecord) -> dict[str, str]:
        extra = self._fields_of(record)
        # The message of a call says little without its fields to a person who reads `journalctl -u`.
        message = " ".join([record.getMessage(), *(f"{name}={value}" for name, value in extra.items())])
        exception = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
        entries = {
            "MESSAGE": f"{message}\n{exception}" if exception else message,
            "PRIORITY": str(next((number for level, number in _PRIORITIES if record.levelno >= level), 7)),
            "SYSLOG_IDENTIFIER": self._service,
            "CODE_FILE": record.pathname,
            "CODE_LINE": str(record.lineno),
            "CODE_FUNC": record.funcName,
            "MAIFS_LOGGER": record.name,
        }
        return entries | {_name(name): str(value) for name, value in extra.items()}


def _name(name: str) -> str:
    """Names of the journal hold capitals, digits and underscores, at most 64."""
    return "MAIFS_" + re.sub(r"[^A-Z0-9_]", "_", name.upper())[:58]


def _encoded(entry: tuple[str, str]) -> bytes:
    name, value = entry[0].encode(), entry[1].encode("utf-8", "replace")[:_MOST_BYTES]
    if b"\n" not in value:
        return name + b"=" + value + b"\n"
    return name + b"\n" + len(value).to_bytes(8, "little") + value + b"\n"
