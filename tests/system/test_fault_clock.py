"""A wall clock that jumps, in all services at once: no time limit may hang on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from maifs.coordinator.v1 import batch_pb2
from serving.errors import Reason
from tests.coordinator.batches import SEAL, begin, chunk, end, offer
from tests.faults.stack import Plan, Stack, end_of, error_of, is_explained, running, wait_until
from tests.processes import socket_folder

DAY_S = 86_400
LIBRARIES = tuple(f"/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1" for machine in ("x86_64", "aarch64"))


class Clock:
    """The wall clock of the services."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """So far ahead of the true time; behind it when negative."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{ahead_s:+d}")
        new.replace(self._file)


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[tuple[Stack, Clock]]:
    library = next((path for path in LIBRARIES if Path(path).exists()), None)
    if library is None:
        pytest.skip("no libfaketime on this machine")
    with socket_folder() as folder:
        clock = Clock(folder / "clock")
        preload = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        settings = {"item_timeout_s": "5", "llm_timeout_s": "30", "state_folder": "{folder}/state"}
        with running(Plan(settings, vision_s=1.0, env=os.environ | preload)) as stack:
            yield stack, clock


@pytest.mark.parametrize("ahead_s", [3 * DAY_S, -3 * DAY_S, 0])
def test_a_picture_under_way_while_the_clock_jumps_is_reported_and_so_is_the_next(
    world: tuple[Stack, Clock], ahead_s: int
) -> None:
    stack, clock = world
    with ThreadPoolExecutor(1) as pool:
        running_picture = pool.submit(stack.analyze, timeout_s=60)
        wait_until(lambda: stack.status().open_items_count == 1, "the picture is under way")
        clock.set(ahead_s)
        assert is_explained(running_picture.result(90))
    events = stack.analyze(timeout_s=60)
    assert is_explained(events)
    report = events[-1].report
    assert report.create_time.seconds == pytest.approx(time.time() + ahead_s, abs=120), "the clock did not jump"
    total = next(timing for timing in report.timings if timing.phase == "total")
    assert 0.9 < total.duration.ToNanoseconds() / 1e9 < 60


def test_time_limits_are_those_of_a_steady_clock(world: tuple[Stack, Clock]) -> None:
    stack, clock = world
    with stack.stopped("vision"), ThreadPoolExecutor(1) as pool:
        late = pool.submit(stack.analyze, timeout_s=60)
        wait_until(lambda: stack.status().open_items_count == 1, "the picture is under way")
        clock.set(-3 * DAY_S)
        assert error_of(late.result(90)).reason is Reason.DEADLINE_EXCEEDED
    clock.set(3 * DAY_S)
    wait_until(lambda: end_of(stack.analyze()) == "report", "the vision service is used again")


def test_a_batch_is_worked_off_while_the_clock_jumps(world: tuple[Stack, Clock]) -> None:
    stack, clock = world
    requests = [begin("clock")]
    for number in range(8):
        data = bytes([number]) * 100
        requests += [offer(f"{number}.jpg", data), chunk(f"{number}.jpg", data), end(f"{number}.jpg")]
    answers = [answer.WhichOneof("event") for answer in stack.batches.SubmitBatch(iter([*requests, SEAL]), timeout=60)]
    assert answers.count("accepted") == 8
    clock.set(-3 * DAY_S)
    watched = stack.batches.WatchBatch(batch_pb2.WatchBatchRequest(batch_id="clock"), timeout=120)
    assert sum(answer.ended.HasField("report") for answer in watched) == 8
