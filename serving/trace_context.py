"""W3C trace context of the call that is being served: taken from its metadata, handed on, shown in logs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Any

_PARENT, _STATE = "traceparent", "tracestate"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
"""W3C Trace Context, 3.2: version, trace, parent, flags."""
_MOST_STATE_CHARACTERS = 512

Headers = tuple[tuple[str, str], ...]

received: ContextVar[Headers] = ContextVar("maifs_trace_received", default=())
"""What the client sent."""
current_span: ContextVar[Any] = ContextVar("maifs_span", default=None)
"""The opentelemetry.trace.Span that is being recorded; None while tracing is off."""


def headers_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> Headers:
    """The trace context in a call's metadata; empty where there is none that is well formed."""
    found: Mapping[str, str | bytes] = dict(metadata or ())
    parent, state = found.get(_PARENT, ""), found.get(_STATE, "")
    if not isinstance(parent, str) or not _TRACEPARENT.fullmatch(parent):
        return ()
    if not isinstance(state, str) or not 0 < len(state) <= _MOST_STATE_CHARACTERS:
        return ((_PARENT, parent),)
    return ((_PARENT, parent), (_STATE, state))


def outgoing_trace() -> Headers:
    """Metadata that hands the current trace on to a backend."""
    span = current_span.get()
    if span is None:
        return received.get()
    context = span.get_span_context()
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    state = context.trace_state.to_header()
    return ((_PARENT, parent), (_STATE, state)) if state else ((_PARENT, parent),)


def current_trace_id() -> str:
    """The current trace, 32 hexadecimal digits; empty outside traces."""
    for name, value in outgoing_trace():
        if name == _PARENT:
            return value.split("-")[1]
    return ""
