"""Load on the coordinator from clients that do not wait for each other: how much it holds, and what it does beyond.

`python -m benchmarks.load [--vision] [--seconds 8]` prints Markdown. Pictures arrive at random moments at a set mean
rate (a Poisson process) whatever becomes of those before: an open loop, as many independent clients are (Schroeder,
Wierman and Harchol-Balter, "Open versus closed: a cautionary tale", NSDI 2006). A latency counts from the moment at
which the picture was meant to be sent, so that a sender that falls behind hides nothing ("coordinated omission",
Tene, "How not to measure latency", 2013).
"""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil

from benchmarks.camera import photo, to_jpeg
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from serving.errors import MaifsError, Reason
from serving.status import from_rpc_error, from_status
from tests.faults.stack import Plan, Stack, running

DEADLINE_S = 10.0
CHANNELS = 8
HELD_P99_S = 2.0
"""A rate is held when every picture has its report and 99 of 100 have it within this."""
SIMULATED = {"vision_concurrency": "16", "llm_concurrency": "16"}


@dataclass(frozen=True)
class Call:
    """What became of one picture; moments in seconds from when it was meant to be sent."""

    outcome: str
    """"report", "refused", "late" or a reason."""
    sent_s: float
    end_s: float
    accepted: bool
    has_retry_info: bool = False


@dataclass
class Run:
    """What became of all."""

    rate: float
    calls: list[Call] = field(default_factory=list)
    peak_mib: float = 0.0

    def outcomes(self) -> Counter[str]:
        """How often each."""
        return Counter(call.outcome for call in self.calls)

    def latency(self, percent: float, outcome: str = "report") -> float:
        """Percentile (nearest rank) of the pictures that ended so, in seconds."""
        times = sorted(call.end_s for call in self.calls if call.outcome == outcome)
        return times[max(math.ceil(percent / 100 * len(times)) - 1, 0)] if times else math.nan

    @property
    def is_held(self) -> bool:
        """Whether the coordinator kept up."""
        return self.outcomes()["report"] == len(self.calls) and self.latency(99) <= HELD_P99_S


class Sender:
    """Sends pictures of mixed sizes."""

    def __init__(self, stubs: Sequence[Any], pictures: Sequence[bytes], pid: int, seed: int) -> None:
        self._stubs, self._pictures, self._dice = stubs, pictures, random.Random(seed)
        self._process = psutil.Process(pid)

    async def run(self, rate: float, seconds: float) -> Run:
        """Pictures at a mean rate per second for so long, then waits for the last of them."""
        run = Run(rate)
        watching = asyncio.ensure_future(self._watch(run))
        start = intended = time.perf_counter()
        tasks = []
        while (intended := intended + self._dice.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(intended - time.perf_counter(), 0))
            tasks.append(asyncio.ensure_future(self.send(intended)))
        run.calls = list(await asyncio.gather(*tasks))
        watching.cancel()
        return run

    async def _watch(self, run: Run) -> None:
        while True:
            run.peak_mib = max(run.peak_mib, self._process.memory_info().rss / 2**20)
            await asyncio.sleep(0.1)

    async def send(self, intended: float) -> Call:
        """One picture."""
        image = image_pb2.Image(data=self._dice.choice(self._pictures))
        request = coordinator_pb2.AnalyzeRequest(image=image, options=coordinator_pb2.AnalyzeOptions(skip_cache=True))
        sent, accepted, error = time.perf_counter(), False, None
        try:
            async for answer in self._dice.choice(self._stubs).Analyze(request, timeout=DEADLINE_S):
                accepted = True
                if answer.event.HasField("error"):
                    error = from_status(answer.event.error)
        except grpc.aio.AioRpcError as raised:
            error = from_rpc_error(raised, "the coordinator")
        retry = error is not None and error.retry_after_s > 0
        return Call(_outcome(error), sent - intended, time.perf_counter() - intended, accepted, retry)


def _outcome(error: MaifsError | None) -> str:
    if error is None:
        return "report"
    names = {Reason.QUEUE_FULL: "refused", Reason.DEADLINE_EXCEEDED: "late"}
    return names.get(error.reason, error.reason.name)


async def highest_rate(sender: Sender, first: float, seconds: float) -> float:
    """The highest rate that is held, by steps of 1.5 up and then by halving the gap three times."""
    low, high = 0.0, first
    while (await sender.run(high, seconds)).is_held:
        low, high = high, high * 1.5
    for _ in range(3):
        middle = (low + high) / 2
        low, high = (middle, high) if (await sender.run(middle, seconds)).is_held else (low, middle)
    return low


async def recovery_s(sender: Sender, usual_s: float) -> float:
    """Seconds until three pictures in a row, one after the other, are as quick as usual."""
    start, quick = time.perf_counter(), 0
    while quick < 3:
        call = await sender.send(time.perf_counter())
        quick = quick + 1 if call.outcome == "report" and call.end_s <= usual_s else 0
        if time.perf_counter() - start > 120:
            return math.inf
    return time.perf_counter() - start


def row(name: str, run: Run) -> str:
    """A line of the table."""
    seen = run.outcomes()
    others = len(run.calls) - seen["report"] - seen["refused"] - seen["late"]
    times = " | ".join(f"{run.latency(percent) * 1000:.0f}" for percent in (50, 90, 99, 100))
    lag = max(call.sent_s for call in run.calls) * 1000
    counts = f"{len(run.calls)} | {seen['report']} | {seen['refused']} | {seen['late']} | {others}"
    return f"| {name} | {run.rate:.1f} | {counts} | {times} | {run.peak_mib:.0f} | {lag:.0f} |"


def told_of_overload(run: Run, recovery: float) -> str:
    """What matters when there is too much, in a few lines."""
    refused = [call for call in run.calls if call.outcome == "refused"]
    accepted = [call for call in run.calls if call.accepted]
    in_time = sum(call.outcome == "report" for call in accepted)
    took = sorted(call.end_s - call.sent_s for call in refused) or [math.nan]
    lines = [f"accepted {len(accepted)}, of them with a report within {DEADLINE_S:g} s: {in_time}"]
    lines.append(
        f"refused {len(refused)}, with RetryInfo {sum(c.has_retry_info for c in refused)}; from sending to refusal "
        f"median {took[len(took) // 2] * 1000:.0f} ms, longest {took[-1] * 1000:.0f} ms"
    )
    lines.append(
        f"never begun within {DEADLINE_S:g} s: {sum(c.outcome == 'late' and not c.accepted for c in run.calls)}"
    )
    lines.append(f"as quick as at half the rate again after {recovery:.1f} s")
    return "\n".join(f"- {line}" for line in lines)


async def measure(stack: Stack, pictures: Sequence[bytes], first: float, seconds: float, seed: int) -> None:
    """Finds the highest rate held and prints what happens below, above and far above it."""
    async with AsyncExitStack() as exits:
        channels = [
            await exits.enter_async_context(open_channel(stack.addresses["coordinator"])) for _ in range(CHANNELS)
        ]
        stubs = [coordinator_pb2_grpc.CoordinatorServiceStub(channel) for channel in channels]
        sender = Sender(stubs, pictures, stack.processes["coordinator"].process.pid, seed)
        await sender.run(first / 2, 2.0)  # first calls cost more
        held = await highest_rate(sender, first, seconds)
        print(f"Highest rate held: {held:.1f} pictures a second.\n", flush=True)
        print(
            "| load | a second | pictures | reports | refused | late | other | p50 ms | p90 | p99 | max | MiB | lag |"
        )
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        usual = math.nan
        for part in (0.5, 0.8, 1.2):
            run = await sender.run(held * part, 2 * seconds)
            usual = run.latency(99) if part == 0.5 else usual
            print(row(f"{part * 100:.0f} %", run), flush=True)
        run = await sender.run(held * 10, seconds)
        recovery = await recovery_s(sender, 2 * usual)
        print(row("10 times", run), flush=True)
        print(f"\n10 times the rate for {seconds:g} s:\n\n{told_of_overload(run, recovery)}")


def main() -> int:
    """Runs it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--vision", action="store_true", help="the real vision service, not a simulated one")
    parser.add_argument("--seconds", type=float, default=8.0, help="for each rate that is tried")
    parser.add_argument("--first", type=float, help="rate per second to try first")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.vision:
        sizes = ((96, 128), (192, 256), (240, 320))
        pictures = [to_jpeg(photo(height, width, seed=options.seed), 90) for height, width in sizes]
        plan, first = Plan(vision=("vision_service",)), 2.0
    else:
        dice = random.Random(options.seed)
        pictures = [dice.randbytes(size) for size in (*[20_000] * 10, *[200_000] * 7, *[1_000_000] * 3)]
        plan, first = Plan(SIMULATED), 20.0
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; sender and services on the "
        f"same cores; load of the machine before {os.getloadavg()[0]:.1f}.",
        end=" ",
    )
    with running(plan) as stack:
        asyncio.run(measure(stack, pictures, options.first or first, options.seconds, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
