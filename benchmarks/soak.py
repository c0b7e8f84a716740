"""Services under steady load for a long time: memory, descriptors, threads and children must not grow.

`python -m benchmarks.soak [--minutes 10] [--vision]` prints Markdown and ends with 1 when something grows beyond
chance, a process ends, or a call fails that should not. The load is what clients do, good and bad: pictures of several
sizes alone and on streams, batches, files that come again, calls that are cancelled or hung up, nonsense, new
connections.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil

from benchmarks.camera import photo, to_jpeg
from benchmarks.trend import Trend, trend
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc, coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from tests.coordinator.batches import SEAL, begin, chunk, end, offer
from tests.coordinator.conftest import item
from tests.faults.stack import Plan, Stack, running

SETTINGS = {"state_folder": "{folder}/state", "cache_bytes": "2000000", "cache_disk_bytes": "20000000"}
WARM_UP = 1 / 3
"""Part of the time in which caches and pools may still fill; it does not count."""
ALLOWED_GROWTH = {"resident MiB": (3.0, 0.03), "descriptors": (2.0, 0.0), "threads": (6.0, 0.0), "children": (0.5, 0.0)}
"""What each may grow over the time that counts: so much, or such a part of itself."""
TIMEOUT_S = 120.0


@dataclass
class Samples:
    """What was seen of one process."""

    times_s: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in ALLOWED_GROWTH})

    def take(self, process: psutil.Process) -> None:
        """Looks at it now."""
        with process.oneshot():
            seen = (process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())
        children = len(process.children(recursive=True))
        self.times_s.append(time.monotonic())
        for name, value in zip(self.values, (*seen, children), strict=True):
            self.values[name].append(float(value))

    def trends(self) -> dict[str, Trend]:
        """By quantity, without the warm-up."""
        start = self.times_s[0] + WARM_UP * (self.times_s[-1] - self.times_s[0])
        first = next(i for i, moment in enumerate(self.times_s) if moment >= start)
        return {name: trend(self.times_s[first:], values[first:]) for name, values in self.values.items()}


class Load:
    """Clients that do everything, one thing after the other."""

    def __init__(self, address: str, pictures: Sequence[bytes], seed: int) -> None:
        self._address, self._pictures, self._dice = address, pictures, random.Random(seed)
        self.done: Counter[str] = Counter()
        self.failures: list[str] = []
        self._ways: list[Callable[[Any, Any], Awaitable[None]]] = [
            self._one, self._one, self._again, self._stream, self._batch, self._cancel, self._hang_up, self._nonsense,
            self._status,
        ]  # fmt: skip

    async def run(self, seconds: float, pause_s: float) -> None:
        """One client."""
        end_s = time.monotonic() + seconds
        while time.monotonic() < end_s:
            async with open_channel(self._address) as channel:
                for _ in range(20):
                    await self._step(channel)
                    await asyncio.sleep(self._dice.random() * 2 * pause_s)
                    if time.monotonic() >= end_s:
                        return

    async def _step(self, channel: grpc.aio.Channel) -> None:
        stub: Any = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        batches: Any = batch_pb2_grpc.BatchServiceStub(channel)
        way = self._dice.choice(self._ways)
        try:
            await way(stub, batches)
            self.done[way.__name__.strip("_")] += 1
        except (grpc.aio.AioRpcError, AssertionError) as error:
            self.failures.append(f"{way.__name__.strip('_')}: {error!r}"[:400])

    def _picture(self) -> bytes:
        """One that was not seen before: with a comment of its own behind the start of the JPEG."""
        data, comment = self._dice.choice(self._pictures), uuid.UUID(int=self._dice.getrandbits(128)).bytes
        return data[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + data[2:]

    async def _analyze(self, stub: Any, data: bytes) -> None:
        request = coordinator_pb2.AnalyzeRequest(image=image_pb2.Image(data=data, file_name="a.jpg"))
        events = [answer.event async for answer in stub.Analyze(request, timeout=TIMEOUT_S)]
        assert events[-1].HasField("report"), events[-1]

    async def _one(self, stub: Any, _: Any) -> None:
        await self._analyze(stub, self._picture())

    async def _again(self, stub: Any, _: Any) -> None:
        await self._analyze(stub, self._pictures[0])

    async def _stream(self, stub: Any, _: Any) -> None:
        async def requests() -> AsyncIterator[Any]:
            for number in range(4):
                for request in item(f"{number}", self._picture()):
                    yield request

        ends = [a.event.WhichOneof("event") async for a in stub.AnalyzeStream(requests(), timeout=TIMEOUT_S)]
        assert ends.count("report") == 4, ends

    async def _batch(self, _: Any, batches: Any) -> None:
        batch_id, data = f"soak-{self._dice.getrandbits(64):x}", self._picture()
        requests = [begin(batch_id), offer("a.jpg", data), chunk("a.jpg", data), end("a.jpg"), SEAL]
        answers = [a.WhichOneof("event") async for a in batches.SubmitBatch(iter(requests), timeout=TIMEOUT_S)]
        assert answers.count("accepted") == 1, answers
        watching = batches.WatchBatch(batch_pb2.WatchBatchRequest(batch_id=batch_id), timeout=TIMEOUT_S)
        reports = [answer async for answer in watching if answer.ended.HasField("report")]
        assert len(reports) == 1, reports

    async def _cancel(self, stub: Any, _: Any) -> None:
        call = stub.AnalyzeStream(timeout=TIMEOUT_S)
        for request in item("a", self._picture()):
            await call.write(request)
        await call.write(coordinator_pb2.AnalyzeStreamRequest(item_id="a", cancel=image_pb2.CancelItem()))
        await call.done_writing()
        kinds = [answer.event.WhichOneof("event") async for answer in call]
        assert kinds[-1] in {"report", "error"}, kinds

    async def _hang_up(self, stub: Any, _: Any) -> None:
        call = stub.AnalyzeStream(timeout=TIMEOUT_S)
        data = self._picture()
        half = image_pb2.BeginItem(size_bytes=len(data), data=data[: len(data) // 2])
        await call.write(coordinator_pb2.AnalyzeStreamRequest(item_id="a", begin=half))
        for request in item("b", data):
            await call.write(request)
        await call.read()
        call.cancel()

    async def _nonsense(self, stub: Any, _: Any) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._analyze(stub, b"")
        call = stub.AnalyzeStream(timeout=TIMEOUT_S)
        await call.write(coordinator_pb2.AnalyzeStreamRequest(item_id="x", end=image_pb2.EndItem()))
        await call.done_writing()
        assert [answer.event.WhichOneof("event") async for answer in call] == ["error"]

    async def _status(self, stub: Any, _: Any) -> None:
        await stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=TIMEOUT_S)


@dataclass(frozen=True)
class Outcome:
    """A run."""

    samples: dict[str, Samples]
    done: Counter[str]
    faults: list[str]
    """Why it failed; empty when it did not."""


def soak(seconds: float, plan: Plan, *, clients: int, pause_s: float, seed: int = 0) -> Outcome:
    """Runs services under load and judges them."""
    pictures = [to_jpeg(photo(height, width, seed=seed), 90) for height, width in ((64, 96), (240, 320), (480, 640))]
    pictures.append(pictures[0] + bytes(1_500_000))
    with running(plan) as stack:
        load = Load(stack.addresses["coordinator"], pictures, seed)
        samples = asyncio.run(_run(stack, load, seconds, clients, pause_s))
        ended = [name for name, process in stack.processes.items() if process.process.poll() is not None]
    faults = [f"{name} ended" for name in ended] + [f"a call failed: {failure}" for failure in load.failures[:10]]
    for name, seen in samples.items():
        for quantity, found in seen.trends().items():
            least, part = ALLOWED_GROWTH[quantity]
            if found.is_leak(max(least, part * found.first)):
                faults.append(f"{name}: {quantity} grew from {found.first:.1f} to {found.last:.1f} (z {found.z:.1f})")
    return Outcome(samples, load.done, faults)


async def _run(stack: Stack, load: Load, seconds: float, clients: int, pause_s: float) -> dict[str, Samples]:
    processes = {name: psutil.Process(service.process.pid) for name, service in stack.processes.items()}
    samples = {name: Samples() for name in processes}

    async def look() -> None:
        while True:
            for name, process in processes.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    samples[name].take(process)
            await asyncio.sleep(max(0.5, seconds / 600))

    looking = asyncio.ensure_future(look())
    await asyncio.gather(*(load.run(seconds, pause_s) for _ in range(clients)))
    looking.cancel()
    return samples


def table(outcome: Outcome) -> str:
    """Markdown."""
    lines = ["| process | quantity | after the warm-up | at the end | highest | growth per hour | z |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for name, seen in outcome.samples.items():
        for quantity, found in seen.trends().items():
            highest = max(seen.values[quantity])
            row = f"| {name} | {quantity} | {found.first:.1f} | {found.last:.1f} | {highest:.1f} "
            lines.append(f"{row}| {found.slope * 3600:+.2f} | {found.z:+.1f} |")
    return "\n".join(lines)


def main() -> int:
    """Runs it; 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--vision", action="store_true", help="the real vision service, not a simulated one")
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--pause", type=float, default=0.1, help="mean seconds between two things that a client does")
    options = parser.parse_args()
    plan = Plan(SETTINGS, vision=("vision_service",) if options.vision else (), map_bytes=20_000)
    started = os.getloadavg()[0]
    outcome = soak(options.minutes * 60, plan, clients=options.clients, pause_s=options.pause)
    done = ", ".join(f"{count} {name}" for name, count in sorted(outcome.done.items()))
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    print(
        f"{options.minutes:g} minutes on {machine}; load of the machine {started:.1f} before, {os.getloadavg()[0]:.1f}"
    )
    print(f"after. Done: {done}.\n\n{table(outcome)}")
    for fault in outcome.faults:
        print(f"FAULT {fault}")
    return int(bool(outcome.faults))


if __name__ == "__main__":
    sys.exit(main())
