"""Structured logs: text on a terminal, fields in systemd's journal, one JSON object a line otherwise."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from serving.journal import JournalHandler, under_journal
from serving.requests import current_request_id
from serving.trace_context import current_trace_id

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "vllm_process_name"}


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """What was passed as `extra`."""
    return {k: v for k, v in vars(record).items() if k not in _STANDARD and not k.startswith("_")}


class RequestIdFilter(logging.Filter):
    """Adds the id of the request that is being served, and of its trace where it belongs to one."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        request_id = current_request_id.get()
        if request_id and not hasattr(record, "request_id"):
            record.request_id = request_id
        trace_id = current_trace_id()
        if trace_id:
            record.trace_id = trace_id
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (RFC 3339, UTC), level, service, logger, message, and the record's fields."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """See class."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry: dict[str, Any] = {
            "time": f"{stamp}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
            **fields_of(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, message, key=value."""

    def __init__(self, service: str) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service}: %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """See class."""
        extra = " ".join(f"{k}={v}" for k, v in fields_of(record).items())
        return f"{super().formatMessage(record)} {extra}".rstrip()


def _handler(service: str, style: str) -> logging.Handler:
    if style == "auto":
        style = "text" if sys.stderr.isatty() else "journal" if under_journal() else "json"
    if style == "journal":
        return JournalHandler(service, fields_of)
    handler = logging.StreamHandler()
    handler.setFormatter(TextFormatter(service) if style == "text" else JsonFormatter(service))
    return handler


def configure_logs(service: str, level: str, style: str) -> None:
    """Sends all logs to standard error, or to the journal.

    Args:
        service: name that each line carries.
        level: "debug", "info", "warning" or "error".
        style: "text", "json", "journal", or "auto": text on a terminal, the journal where standard error goes there,
            JSON otherwise.
    """
    handler = _handler(service, style)
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for noisy in ("PIL", "matplotlib", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
