"""What the coordinator costs, with both stages simulated at known service times.

`python -m benchmarks.pipeline [--scale 0.1] [--pictures 100]` prints Markdown. The stages are real gRPC servers in
processes of their own that take 2.0 s (tools) and 2.9 s (language model) for a picture, scaled down; the sequential way
calls them one after the other, picture by picture, as programs without a pipeline do.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import psutil

from coordinator.llm_client import LlmClient, Message
from coordinator.vision_client import Picture, VisionClient
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import CHUNK_BYTES, open_channel
from tests.processes import ServiceProcess, socket_folder

VISION_S, LLM_S = 2.0, 2.9
Request = coordinator_pb2.AnalyzeStreamRequest
Stub: TypeAlias = "coordinator_pb2_grpc.CoordinatorServiceAsyncStub"  # exists for type checkers only
PICTURE = os.urandom(400_000)
"""As large as a photograph for the web; its content does not matter here."""


@dataclass(frozen=True)
class Setting:
    """How the stages work."""

    name: str
    vision_s: float
    llm_s: float
    vision_places: int = 1
    llm_places: int = 1

    def rate(self) -> float:
        """Pictures per second of the slower stage."""
        return min(self.vision_places / self.vision_s, self.llm_places / self.llm_s)


@dataclass(frozen=True)
class Services:
    """Running services and the addresses to reach them directly."""

    coordinator: ServiceProcess
    vision: str
    llm: str

    def cpu_s(self) -> float:
        """CPU seconds of the coordinator so far."""
        times = psutil.Process(self.coordinator.process.pid).cpu_times()
        return float(times.user + times.system)


@contextlib.contextmanager
def services(setting: Setting) -> Iterator[Services]:
    """A coordinator between two simulated stages."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(socket_folder())
        addresses = {name: f"unix:{folder}/{name}.sock" for name in ("vision", "llm", "coordinator")}
        for stage, seconds, places in (
            ("vision", setting.vision_s, setting.vision_places), ("llm", setting.llm_s, setting.llm_places),
        ):  # fmt: skip
            arguments = ("--stage", stage, "--seconds", str(seconds), "--places", str(places))
            stack.enter_context(_process("benchmarks.simulated_stage", addresses[stage], folder, *arguments))
        settings = {
            "vision_address": addresses["vision"],
            "llm_address": addresses["llm"],
            "vision_concurrency": setting.vision_places + 1,
            "llm_concurrency": setting.llm_places + 1,
            "cache_bytes": 0,
            "second_look": "false",  # the simulated tools disagree on every picture, which real ones hardly ever do
            "max_open_items": 64,
        }
        options = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
        coordinator = stack.enter_context(_process("coordinator", addresses["coordinator"], folder, *options))
        yield Services(coordinator, addresses["vision"], addresses["llm"])


def _process(module: str, address: str, folder: Path, *arguments: str) -> ServiceProcess:
    return ServiceProcess(module, address, *arguments, log=folder / f"{module}.log").wait_serving()


async def steps(item_id: str, data: bytes, options: coordinator_pb2.AnalyzeOptions) -> AsyncIterator[Request]:
    """The messages of one picture."""
    yield Request(item_id=item_id, begin=image_pb2.BeginItem(size_bytes=len(data)), options=options)
    for offset in range(0, len(data), CHUNK_BYTES):
        chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data[offset : offset + CHUNK_BYTES])
        yield Request(item_id=item_id, chunk=chunk)
    yield Request(item_id=item_id, end=image_pb2.EndItem())


async def stream(stub: Stub, data: bytes, count: int, *, skip_llm: bool = False, most_open: int = 32) -> list[float]:
    """Sends `count` pictures over one stream; returns the seconds to each first finding, in the order of sending."""
    slots = asyncio.Semaphore(most_open)
    options = coordinator_pb2.AnalyzeOptions(skip_llm=skip_llm)
    sent: dict[str, float] = {}
    first: dict[str, float] = {}
    call = stub.AnalyzeStream()

    async def send() -> None:
        for number in range(count):
            await slots.acquire()
            sent[str(number)] = time.perf_counter()
            async for message in steps(str(number), data, options):
                await call.write(message)
        await call.done_writing()

    sending = asyncio.ensure_future(send())
    ended = 0
    async for response in call:
        kind = response.event.WhichOneof("event")
        if kind == "tool_result":
            first.setdefault(response.item_id, time.perf_counter() - sent[response.item_id])
        elif kind == "report":
            if response.event.report.HasField("explanation_error"):
                raise RuntimeError(response.event.report.explanation_error.message)
            ended += 1
            slots.release()
        elif kind == "error":
            raise RuntimeError(response.event.error.message)
    await sending
    if ended != count:
        raise RuntimeError(f"{ended} of {count} pictures have a report")
    return [first[str(number)] for number in range(count)]


async def sequential(where: Services, data: bytes, count: int) -> None:
    """Tools, then the language model, then the next picture: no stage works while the other does."""
    vision, llm = VisionClient(where.vision), LlmClient(where.llm)
    question = (Message("user", "Explain."),)
    for _ in range(count):
        async for _event in vision.analyze(Picture(data, "picture"), 600.0):
            pass
        await llm.generate(question, json_schema="{}", max_tokens=320, timeout_s=600.0)
    await vision.close()
    await llm.close()


async def seconds_of(work: Callable[[], Awaitable[object]]) -> float:
    """Wall time."""
    start = time.perf_counter()
    await work()
    return time.perf_counter() - start


async def compare(setting: Setting, counts: tuple[int, ...]) -> None:
    """Pipeline against the sequential way, for several numbers of pictures."""
    with services(setting) as where:
        async with open_channel(where.coordinator.address) as channel:
            stub: Stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            await stream(stub, PICTURE, 1)
            for count in counts:
                alone = await seconds_of(lambda count=count: sequential(where, PICTURE, count))  # type: ignore[misc]
                cpu = where.cpu_s()
                start = time.perf_counter()
                first = await stream(stub, PICTURE, count)
                took = time.perf_counter() - start
                cpu_ms = (where.cpu_s() - cpu) / count * 1000
                share = count / took / setting.rate()
                print(
                    f"| {setting.name} | {count} | {alone:.2f} s | {took:.2f} s | {alone / took:.2f} | {share:.3f} | "
                    f"{first[0] * 1000:.0f} ms | {cpu_ms:.1f} ms |"
                )


async def direct(where: Services, data: bytes) -> tuple[float, float]:
    """Seconds to the first finding and to the result without the coordinator."""
    vision = VisionClient(where.vision)
    await _drain(vision, b"x")
    start = time.perf_counter()
    first = await _drain(vision, data)
    end = time.perf_counter()
    await vision.close()
    return first - start, end - start


async def _drain(vision: VisionClient, data: bytes) -> float:
    first = 0.0
    async for event in vision.analyze(Picture(data, "picture"), 60.0):
        if isinstance(event, finding_pb2.ToolResult) and not first:
            first = time.perf_counter()
    return first


async def added(size_bytes: int, rounds: int) -> None:
    """Time that the way through the coordinator adds, with stages that take no time, both ways in turn."""
    data = os.urandom(size_bytes)
    with services(Setting("no time", 0.0, 0.0)) as where:
        async with open_channel(where.coordinator.address) as channel:
            stub: Stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            await stream(stub, data, 3, skip_llm=True)
            without: list[tuple[float, float]] = []
            through: list[tuple[float, float]] = []
            cpu = 0.0
            for _ in range(rounds):
                without.append(await direct(where, data))
                before = where.cpu_s()
                start = time.perf_counter()
                first = await stream(stub, data, 1, skip_llm=True)
                through.append((first[0], time.perf_counter() - start))
                cpu += where.cpu_s() - before
    columns = [
        statistics.median(row[column] for row in rows) * 1000 for rows in (without, through) for column in (0, 1)
    ]
    print(
        f"| {size_bytes / 1e6:g} MB | {columns[0]:.1f} ms | {columns[2]:.1f} ms | {columns[2] - columns[0]:.1f} ms | "
        f"{columns[1]:.1f} ms | {columns[3]:.1f} ms | {columns[3] - columns[1]:.1f} ms | {cpu / rounds * 1000:.1f} ms |"
    )


async def main(scale: float, pictures: int, rounds: int) -> None:
    """Prints all tables."""
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}; service times x {scale}; "
        f"load of the machine before {os.getloadavg()[0]:.1f}\n"
    )
    print(
        "| stages | pictures | sequential | pipeline | ratio | of the slower stage's rate | first finding | CPU each |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    one = Setting("one picture at a time each", VISION_S * scale, LLM_S * scale)
    many = Setting("2 at the tools, 8 at the model", VISION_S * scale, LLM_S * scale, 2, 8)
    counts = (1, 10, pictures)
    await compare(one, counts)
    await compare(many, counts)
    print("\n| file | first finding: direct | through | added | result: direct | through | added | CPU each |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for size_bytes in (100_000, 1_000_000, 10_000_000):
        await added(size_bytes, rounds)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1, help="of the service times")
    parser.add_argument("--pictures", type=int, default=100, help="in the largest batch")
    parser.add_argument("--rounds", type=int, default=30, help="for the time that the coordinator adds")
    options = parser.parse_args()
    asyncio.run(main(options.scale, options.pictures, options.rounds))
