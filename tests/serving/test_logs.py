"""Fields of log lines."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.journal import JournalHandler, under_journal
from serving.logs import fields_of
from tests.processes import socket_folder


def parsed(datagram: bytes) -> dict[str, str]:
    """Fields of one message in the journal's protocol."""
    found = {}
    while datagram:
        name, _, rest = datagram.partition(b"\n")
        if b"=" in name:
            key, _, value = name.partition(b"=")
        else:
            size = int.from_bytes(rest[:8], "little")
            key, value, rest = name, rest[8 : 8 + size], rest[8 + size + 1 :]
        found[key.decode()] = value.decode()
        datagram = rest
    return found


@pytest.fixture(name="journal")
def _journal() -> Iterator[tuple[Path, socket.socket]]:
    with socket_folder() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "socket"))
        listener.settimeout(10)
        yield folder / "socket", listener


def logger_to(address: Path) -> logging.Logger:
    logger = logging.Logger("maifs.test")
    logger.addHandler(JournalHandler("vision-service", fields_of, address))
    return logger


def test_the_journal_gets_searchable_fields(journal: tuple[Path, socket.socket]) -> None:
    address, listener = journal
    logger_to(address).warning("call ended", extra={"request_id": "r-1", "code.name": "OK"})
    entry = parsed(listener.recv(1 << 18))
    assert entry["MESSAGE"] == "call ended request_id=r-1 code.name=OK"
    assert (entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("4", "vision-service")
    assert (entry["MAIFS_REQUEST_ID"], entry["MAIFS_CODE_NAME"]) == ("r-1", "OK")
    assert entry["CODE_FILE"].endswith("test_logs.py")


def test_lines_of_an_untrusted_value_make_no_fields(journal: tuple[Path, socket.socket]) -> None:
    address, listener = journal
    try:
        raise ValueError("bad\nPRIORITY=0")
    except ValueError:
        logger_to(address).exception("broken", extra={"file": "x\nPRIORITY=0"})
    entry = parsed(listener.recv(1 << 18))
    assert entry["PRIORITY"] == "3"
    assert entry["MAIFS_FILE"] == "x\nPRIORITY=0"
    assert "ValueError: bad" in entry["MESSAGE"]


def test_a_long_value_is_cut_and_a_journal_that_is_gone_loses_nothing(
    journal: tuple[Path, socket.socket], capsys: pytest.CaptureFixture[str]
) -> None:
    address, listener = journal
    logger = logger_to(address)
    logger.info("x" * 300_000)
    assert len(parsed(listener.recv(1 << 20))["MESSAGE"]) == 64 * 1024
    address.unlink()
    logger.info("the last words")
    assert "the last words" in capsys.readouterr().err


def test_a_stream_that_is_not_the_journal_s_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    assert not under_journal()
    monkeypatch.setenv("JOURNAL_STREAM", "1:2")
    assert not under_journal()


def test_a_line_carries_what_was_passed_and_nothing_that_an_engine_adds() -> None:
    record = logging.makeLogRecord({"phase": "import", "vllm_process_name": "MainProcess", "_private": 1})
    assert fields_of(record) == {"phase": "import"}
