"""One request id from the first service to the last, in metadata, in logs and in reports."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from contextvars import ContextVar

from serving.trace_context import outgoing_trace

METADATA_KEY = "x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,64}")

current_request_id: ContextVar[str] = ContextVar("maifs_request_id", default="")
"""The id of the request that the running task serves; empty outside requests."""


def new_request_id() -> str:
    """A fresh id, 16 hexadecimal digits."""
    return uuid.uuid4().hex[:16]


def request_id_from(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """The caller's id where it sent a well-formed one, else a fresh one."""
    for key, value in metadata or ():
        if key == METADATA_KEY and isinstance(value, str) and _VALID.fullmatch(value):
            return value
    return new_request_id()


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that hands the current request id and trace on to a backend."""
    return ((METADATA_KEY, current_request_id.get() or new_request_id()), *outgoing_trace())
