"""A disk that is full: what the journal, the cache and the command's output folder do then, and when there is room."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maifs.coordinator.v1 import batch_pb2
from serving.errors import ExitCode, Reason
from serving.status import from_status
from tests.coordinator.batches import SEAL, begin, chunk, end, offer
from tests.faults.namespace import Namespace, namespace
from tests.faults.stack import Plan, Stack, end_of, running, wait_until
from tests.processes import ROOT, socket_folder

DISK_MIB = 8
MAP_BYTES = 100_000
"""Of the heat map in each report, so that reports take room."""


@pytest.fixture(name="disk")
def _disk() -> Iterator[tuple[Namespace, Path]]:
    with socket_folder() as folder, namespace(_tmpfs(folder)) as inside:
        yield inside, folder


def _tmpfs(folder: Path) -> tuple[str, ...]:
    return ("-t", "tmpfs", "-o", f"size={DISK_MIB}m,mode=0777", "tmpfs", str(folder))


class Filler:
    """Takes all the room of a disk, and gives it back."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "filler"

    def fill(self) -> None:
        """To the last byte."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        try:
            for size in (65_536, 4096, 1):
                while True:
                    try:
                        os.write(descriptor, bytes(size))
                    except OSError:
                        break
        finally:
            os.close(descriptor)

    def free(self) -> None:
        self._path.unlink()


def submit(stack: Stack, batch_id: str, pictures: dict[str, bytes], *, seal: bool = True) -> list[Any]:
    requests = [begin(batch_id)]
    for name, data in pictures.items():
        requests += [offer(name, data), chunk(name, data), end(name)]
    requests += [SEAL] if seal else []
    answers = stack.batches.SubmitBatch(iter(requests), timeout=60)
    return [answer for answer in answers if answer.WhichOneof("event") not in {"begun", "wanted"}]


def problem(stack: Stack) -> str:
    batches = stack.batches.ListBatches(batch_pb2.ListBatchesRequest(page_size=10), timeout=30).batches
    return str(batches[0].problem)


def reports(stack: Stack, batch_id: str) -> list[str]:
    """Names with a report, when the batch has ended."""
    answers = stack.batches.WatchBatch(batch_pb2.WatchBatchRequest(batch_id=batch_id), timeout=120)
    return [answer.ended.item.name for answer in answers if answer.ended.HasField("report")]


def test_a_full_disk_refuses_submissions_keeps_what_was_accepted_and_goes_on_when_there_is_room(
    disk: tuple[Namespace, Path],
) -> None:
    inside, folder = disk
    filler = Filler(inside.path(folder))
    plan = Plan({"state_folder": f"{folder}/state"}, prefix=inside.prefix, map_bytes=MAP_BYTES)
    with running(plan) as stack:
        with stack.stopped("vision"):  # so that what is accepted cannot end before the disk is full
            accepted = submit(stack, "first", {f"{n}.jpg": bytes([n]) * 1000 for n in range(1, 9)}, seal=False)
            assert [answer.WhichOneof("event") for answer in accepted] == ["accepted"] * 8
            filler.fill()
            refused = submit(stack, "first", {"9.jpg": bytes(50_000)}, seal=False)
            errors = [from_status(answer.refused) for answer in refused if answer.HasField("refused")]
            assert [(e.reason, e.retry_after_s > 0) for e in errors] == [(Reason.STORAGE_FULL, True)]
        wait_until(lambda: "cannot be written" in problem(stack), "the batch says that an end waits for room")
        assert end_of(stack.analyze()) == "report", "a picture that needs no disk is analysed all the same"
        filler.free()
        assert [a.WhichOneof("event") for a in submit(stack, "first", {"9.jpg": bytes(50_000)})] == [
            "accepted", "sealed",
        ]  # fmt: skip
        assert sorted(reports(stack, "first")) == [f"{n}.jpg" for n in range(1, 10)]
        wait_until(lambda: not problem(stack), "nothing is wrong any more")


def test_a_coordinator_killed_on_a_full_disk_ends_with_the_reason_until_there_is_room_and_loses_nothing(
    disk: tuple[Namespace, Path],
) -> None:
    inside, folder = disk
    filler = Filler(inside.path(folder))
    plan = Plan({"state_folder": f"{folder}/state"}, prefix=inside.prefix, map_bytes=MAP_BYTES)
    with running(plan) as stack:
        with stack.stopped("vision"):
            submit(stack, "first", {f"{n}.jpg": bytes([n]) * 1000 for n in range(1, 9)})
            filler.fill()
            stack.processes["coordinator"].process.kill()
            stack.processes["coordinator"].process.wait(30)
        coordinator = stack.start("coordinator")
        assert coordinator.process.wait(120) == ExitCode.USAGE, stack.log("coordinator")
        assert "disk is full" in stack.log("coordinator")
        filler.free()
        stack.start("coordinator").wait_serving()
        assert sorted(reports(stack, "first")) == [f"{n}.jpg" for n in range(1, 9)]


def test_a_cache_on_a_full_disk_is_done_without(disk: tuple[Namespace, Path]) -> None:
    inside, folder = disk
    settings = {"state_folder": f"{folder}/state", "cache_bytes": "1000000"}
    with running(Plan(settings, prefix=inside.prefix, map_bytes=MAP_BYTES)) as stack:
        Filler(inside.path(folder)).fill()
        for number in range(3):
            assert end_of(stack.analyze(f"{number}".encode())) == "report"
        wait_until(lambda: "reports are not kept on disk" in stack.log("coordinator"), "it says so once")
        again = stack.analyze(b"2")[-1].report
        assert again.HasField("from_cache"), "memory is left"


def test_reports_that_do_not_fit_into_the_output_folder_end_the_command_with_the_reason(
    disk: tuple[Namespace, Path], tmp_path: Path
) -> None:
    inside, folder = disk
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(3):
        (pictures / f"{number}.jpg").write_bytes(b"\xff\xd8\xff" + bytes([number]) * 1000)
    with running(Plan(map_bytes=MAP_BYTES)) as stack:
        (inside.path(folder) / "out").mkdir()
        Filler(inside.path(folder)).fill()
        address = stack.addresses["coordinator"]
        command = (sys.executable, "-m", "coordinator.cli", "analyze", str(pictures), "--out", f"{folder}/out")
        run = subprocess.run(
            [*inside.prefix, *command, "--address", address], cwd=ROOT, capture_output=True, text=True, timeout=120
        )
    assert run.returncode not in {ExitCode.OK, ExitCode.INTERNAL}, run.stderr
    assert "No space left" in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
