"""Time from command to first finding and to report, cold and warm, per tool, with the memory of each process.

`python -m benchmarks.latency [--llm MODEL_DIR] [--rounds 3]` prints a Markdown table. Cold: a fresh process starts the
three services, as `coordinator-cli analyze` does with nothing running, and time counts from that process's start.
Warm: the same services, running.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import psutil

from benchmarks.camera import photo, to_jpeg
from coordinator.embedded import EmbeddedOptions, embedded_services
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import CHUNK_BYTES, open_channel

SIZES = {"1 MP": (1024, 1024), "12 MP": (3000, 4000)}
Request = coordinator_pb2.AnalyzeStreamRequest
Stub: TypeAlias = "coordinator_pb2_grpc.CoordinatorServiceAsyncStub"  # exists for type checkers only
Results = dict[str, dict[str, Any]]


async def analyse(
    stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub, data: bytes, skip_llm: bool
) -> dict[str, float]:
    """Seconds to the first finding, the verdict and the report, and those of each phase of the report."""
    start = time.perf_counter()
    call = stub.AnalyzeStream()

    async def send() -> None:
        options = coordinator_pb2.AnalyzeOptions(skip_llm=skip_llm, llm_wait_seconds=600, skip_cache=True)
        await call.write(Request(item_id="1", begin=image_pb2.BeginItem(size_bytes=len(data)), options=options))
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data[offset : offset + CHUNK_BYTES])
            await call.write(Request(item_id="1", chunk=chunk))
        await call.write(Request(item_id="1", end=image_pb2.EndItem()))
        await call.done_writing()

    sending = asyncio.ensure_future(send())
    seen: dict[str, float] = {}
    async for response in call:
        kind = str(response.event.WhichOneof("event"))
        if kind == "error":
            raise RuntimeError(response.event.error.message)
        seen.setdefault(kind, time.perf_counter() - start)
        if kind == "report":
            seen |= {f"phase {t.phase}": t.duration.ToNanoseconds() / 1e9 for t in response.event.report.timings}
            seen["explained by model"] = float(not response.event.report.HasField("explanation_error") and not skip_llm)
    await sending
    return seen


async def session(data: bytes, model: str | None, rounds: int) -> dict[str, Any]:
    """One embedded start, one cold analysis, `rounds` warm ones with and without the language model."""
    born = psutil.Process().create_time()
    async with (
        embedded_services(EmbeddedOptions(llm_model=model)) as services,
        open_channel(services.address) as channel,
    ):
        ready = time.time() - born
        stub: Stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        cold = {key: seconds + ready for key, seconds in (await analyse(stub, data, skip_llm=model is None)).items()}
        fault = await services.wait_llm(900)
        if fault:
            raise fault
        warm = [await analyse(stub, data, skip_llm=model is None) for _ in range(rounds)]
        without = [await analyse(stub, data, skip_llm=True) for _ in range(rounds)]
        memory = {name: peak_mib(pid) for name, pid in services.pids.items()}
    return {
        "ready": ready,
        "cold": [cold],
        "warm": warm,
        "warm, no LLM": without,
        "memory": memory,
    }


def peak_mib(pid: int) -> float:
    """Sum of the peak resident sizes of a process and its children, MiB."""
    process = psutil.Process(pid)
    total = 0
    for each in (process, *process.children(recursive=True)):
        status = Path(f"/proc/{each.pid}/status").read_text("ascii", errors="replace")
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return total / 1024


def table(results: Results) -> str:
    """The results as Markdown."""
    lines = ["| | " + " | ".join(results) + " |", "|---|" + "---:|" * len(results)]

    def row(title: str, values: list[str]) -> None:
        lines.append(f"| {title} | " + " | ".join(values) + " |")

    def seconds(kind: str, key: str) -> list[str]:
        medians = [statistics.median(r.get(key, math.nan) for r in result[kind]) for result in results.values()]
        return [f"{median:.2f} s" for median in medians]

    row("cold: command to vision and coordinator serving", [f"{r['ready']:.1f} s" for r in results.values()])
    row("cold: command to first finding", seconds("cold", "tool_result"))
    row("cold: command to report", seconds("cold", "report"))
    for kind in ("warm", "warm, no LLM"):
        row(f"{kind}: first finding", seconds(kind, "tool_result"))
        row(f"{kind}: verdict", seconds(kind, "verdict_reached"))
        row(f"{kind}: report", seconds(kind, "report"))
    for phase in ("decode", "substrate", "frequency", "noise", "watermark", "spatial", "fusion", "explanation"):
        row(f"warm, phase {phase}", seconds("warm", f"phase {phase}"))
    for name in ("vision", "llm", "coordinator"):
        row(f"peak memory, {name}", [f"{r['memory'].get(name, math.nan):,.0f} MiB" for r in results.values()])
    return "\n".join(lines)


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--llm", help="model directory; without it the language model is left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--session", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.session:
        print(json.dumps(asyncio.run(session(arguments.session.read_bytes(), arguments.llm, arguments.rounds))))
        return
    results: Results = {}
    with TemporaryDirectory() as folder:
        for name, (height, width) in SIZES.items():
            picture = Path(folder) / "picture.jpg"
            picture.write_bytes(to_jpeg(photo(height, width, seed=7), 92))
            command = [
                sys.executable,
                "-m",
                "benchmarks.latency",
                "--session",
                str(picture),
                "--rounds",
                str(arguments.rounds),
            ]
            if arguments.llm:
                command += ["--llm", arguments.llm]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[name] = json.loads(done.stdout.splitlines()[-1])
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print(table(results))


if __name__ == "__main__":
    main()
