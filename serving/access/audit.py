"""The record of calls: who, from where, what, how it ended. Never what was sent, and no secret."""

from __future__ import annotations

import contextlib
import logging
import os
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from serving.access.caller import current_caller
from serving.errors import MaifsError, Reason
from serving.logs import JsonFormatter, RequestIdFilter

_log = logging.getLogger(__name__)
_file = logging.getLogger("maifs.audit")
_file.propagate = False  # its lines stand in the service's log already
_file.addHandler(logging.NullHandler())


class _AuditFile(WatchedFileHandler):
    """A file that only its owner reads; opened anew where log rotation has moved it."""

    _failed = False

    def _open(self) -> Any:
        return os.fdopen(
            os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8"
        )

    def emit(self, record: logging.LogRecord) -> None:
        self._now_failed = False
        super().emit(record)
        if self._failed and not self._now_failed:
            _log.warning("the audit file is written again", extra={"path": self.baseFilename})
        self._failed = self._now_failed

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Says once that the record has a gap; the calls go on."""
        if not self._failed:
            _log.error("the audit file cannot be written", extra={"path": self.baseFilename}, exc_info=True)
        self._now_failed = True


def open_audit_file(path: Path, service: str) -> None:
    """Writes every call to a file too, one JSON object a line.

    Raises:
        MaifsError: OUTPUT_UNWRITABLE.
    """
    try:
        handler = _AuditFile(path)
    except OSError as error:
        raise MaifsError(
            Reason.OUTPUT_UNWRITABLE, f"The audit file {path} cannot be opened: {error.strerror}."
        ) from error
    handler.setFormatter(JsonFormatter(service))
    handler.addFilter(RequestIdFilter())
    close_audit_file()
    _file.addHandler(handler)
    _file.setLevel(logging.INFO)


def close_audit_file() -> None:
    """Ends what `open_audit_file` began."""
    for handler in list(_file.handlers):
        if isinstance(handler, _AuditFile):
            _file.removeHandler(handler)
            with contextlib.suppress(OSError):  # what could not be written was told
                handler.close()


def who(context: Any) -> dict[str, str]:
    """Fields that say who makes a call: `client`, where it is known, and `peer`."""
    client = current_caller.get().client
    return {**({"client": client} if client else {}), "peer": unquote(str(context.peer()))}


def audit(fields: dict[str, Any]) -> None:
    """One call to the audit file, where there is one."""
    _file.info("call", extra=fields)
