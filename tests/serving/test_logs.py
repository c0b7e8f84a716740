"""Fields of log lines."""

from __future__ import annotations

import logging

from serving.logs import fields_of


def test_a_line_carries_what_was_passed_and_nothing_that_an_engine_adds() -> None:
    record = logging.makeLogRecord({"phase": "import", "vllm_process_name": "MainProcess", "_private": 1})
    assert fields_of(record) == {"phase": "import"}
