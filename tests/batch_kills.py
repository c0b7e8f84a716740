"""A batch in which a process dies at a random moment: real processes, and the count of what became of each picture.

The command line and the coordinator are the product's. Vision and language model are simulated unless asked otherwise,
as processes all the same. A supervisor starts again what was killed, as systemd would; the command is run again by
hand.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.channel import MAX_MESSAGE_BYTES
from tests.processes import ROOT, ServiceProcess

VICTIMS = ("cli", "coordinator", "vision", "llm")
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Backends:
    """The command lines, after `python -m`, of the backends; an address is added."""

    vision: Sequence[str] = ("tests.coordinator.simulated_process", "vision")
    llm: Sequence[str] = ("tests.coordinator.simulated_process", "llm")


@dataclass(frozen=True)
class Result:
    """What became of the pictures of one run."""

    victim: str
    killed_after_reports: int
    """Reports in the output folder at the moment of the kill."""
    lost_count: int
    doubled_count: int
    seconds: float

    @property
    def line(self) -> str:
        """For a table."""
        return (
            f"{self.victim:12} killed after {self.killed_after_reports:3} reports: {self.lost_count} lost, "
            f"{self.doubled_count} doubled, {self.seconds:.1f} s"
        )


class Fleet:
    """Vision, language model and coordinator, started again when they are killed."""

    def __init__(self, folder: Path, backends: Backends) -> None:
        self._folder = folder
        self.addresses = {name: f"unix:{folder}/{name[0]}.sock" for name in VICTIMS[1:]}
        settings = (
            "--set", f"vision_address={self.addresses['vision']}", "--set", f"llm_address={self.addresses['llm']}",
            "--set", f"state_folder={folder}/state", "--set", "cache_bytes=0",
        )  # fmt: skip
        self._commands = {
            "vision": tuple(backends.vision),
            "llm": tuple(backends.llm),
            "coordinator": ("coordinator", *settings),
        }
        self.processes: dict[str, ServiceProcess] = {}

    def start(self, name: str) -> None:
        module, *arguments = self._commands[name]
        log = self._folder / f"{name}.log"
        self.processes[name] = ServiceProcess(module, self.addresses[name], *arguments, log=log)

    def kill(self, name: str) -> None:
        process = self.processes[name].process
        process.kill()
        process.wait(10)
        self.start(name)

    def __enter__(self) -> Fleet:
        for name in self._commands:
            self.start(name)
        for process in self.processes.values():
            process.wait_serving(240)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            process.__exit__()


def make_pictures(folder: Path, count: int, seed: int) -> list[Path]:
    """Tiny JPEG files, told apart by a comment."""
    from benchmarks.camera import photo, to_jpeg

    folder.mkdir(parents=True)
    data, paths = to_jpeg(photo(32, 48, seed=seed)), []
    for number in range(count):
        path = folder / f"{number:03}.jpg"
        comment = b"%d %d" % (seed, number)
        path.write_bytes(data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:])
        paths.append(path)
    return paths


def run_once(fleet: Fleet, folder: Path, pictures: Sequence[Path], victim: str, dice: random.Random) -> Result:
    """Analyses the pictures, kills the victim on the way, and counts."""
    start = time.monotonic()
    out = folder / "out"
    command = [
        sys.executable, "-m", "coordinator.cli", "analyze", str(pictures[0].parent), "--out", str(out), "--json",
        "--quiet", "--address", fleet.addresses["coordinator"],
    ]  # fmt: skip
    at, delay_s = dice.randrange(len(pictures)), dice.random() * 0.05
    printed, complaints = folder / "stdout", folder / "stderr"
    with _cli(command, printed, complaints) as cli:
        killed_after = _wait_for_reports(out, at, cli, complaints)
        time.sleep(delay_s)
        if victim == "cli":
            cli.kill()
        else:
            fleet.kill(victim)
        cli.wait(TIMEOUT_S)
    if cli.returncode != 0:
        failed = [line for line in printed.read_text().splitlines() if '"status": "error"' in line]
        assert victim == "cli", f"{victim}: exit code {cli.returncode}: {failed[:2]} {complaints.read_text()[-2000:]}"
        with _cli(command, printed, complaints) as again:
            again.wait(TIMEOUT_S)
        assert again.returncode == 0, complaints.read_text()[-2000:]
    lost, doubled = _count(fleet.addresses["coordinator"], out, pictures, printed.read_text())
    return Result(victim, killed_after, lost, doubled, time.monotonic() - start)


@contextlib.contextmanager
def _cli(command: Sequence[str], printed: Path, complaints: Path) -> Iterator[subprocess.Popen[bytes]]:
    with printed.open("wb") as stdout, complaints.open("wb") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=stderr)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)


def _wait_for_reports(out: Path, count: int, cli: subprocess.Popen[bytes], complaints: Path) -> int:
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end and cli.poll() is None:
        found = sum(name.endswith(".json") for name in os.listdir(out)) if out.exists() else 0  # noqa: PTH208
        if found >= count:
            return found
        time.sleep(0.005)
    raise AssertionError(f"exit code {cli.poll()} before {count} reports: {complaints.read_text()[-2000:]}")


def _count(address: str, out: Path, pictures: Sequence[Path], output: str) -> tuple[int, int]:
    """Pictures lost and doubled, over the journal, the output folder and the command's output together."""
    wanted = {str(path) for path in pictures}
    places = [
        Counter(_ended_in_journal(address, out)),
        Counter(json.loads(path.read_text())["path"] for path in out.glob("*.json")),
        Counter(json.loads(line)["path"] for line in output.splitlines()),
    ]
    lost = sum(len(wanted - set(place)) for place in places)
    doubled = sum(count - 1 for place in places for count in place.values())
    assert set().union(*places) <= wanted
    return lost, doubled


def _ended_in_journal(address: str, out: Path) -> list[str]:
    """Names of all pictures that WatchBatch says have their report, in its order."""
    with grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]) as channel:
        stub: Any = batch_pb2_grpc.BatchServiceStub(channel)
        batches = stub.ListBatches(batch_pb2.ListBatchesRequest(page_size=1000), timeout=10).batches
        batch = next(batch for batch in batches if str(out) in batch.title)
        assert batch.state == batch_pb2.BATCH_STATE_DONE
        request = batch_pb2.WatchBatchRequest(batch_id=batch.batch_id, snapshot=True)
        ends = [r.ended for r in stub.WatchBatch(request, timeout=60) if r.HasField("ended")]
    assert [end.item.sequence for end in ends] == sorted({end.item.sequence for end in ends})
    return [end.item.name for end in ends if end.HasField("report")]
