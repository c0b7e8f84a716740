"""Hosts and times at 1, 10, 100 and 1000 times one host's load, by simulation with measured times of the tools.

python -m benchmarks.scaling                     # the tables of docs/scaling.md, Markdown
python -m benchmarks.scaling --measure DATA      # measures benchmarks/service_times.json, then checks the simulation
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.load import Sender
from benchmarks.queueing import WARM_UP, Model, System, simulate
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from tests.faults.stack import Plan, running
from vision_service.labelled import read_manifest

TIMES_FILE = Path(__file__).with_name("service_times.json")
DAY_S = 86_400
RUNS = 200
"""Simulated for each measured run."""
USE = 0.7
"""Share of the slower stage's time that is planned for; the rest is for peaks and for hosts that are away."""
COORDINATOR_S = 0.012
"""CPU time of a picture with a language model (docs/performance.md)."""
ANSWER_TOKENS = [300.0]
"""Written per explanation (docs/performance.md)."""
STEPS_CPU = {1: 0.0358, 8: 0.0379, 32: 0.0825}
"""Measured seconds between tokens by answers in flight, small model on a CPU (docs/llm.md)."""


@dataclass(frozen=True)
class A100Bound:
    """Least time of a step of Qwen2.5-32B, tensor parallel 3 and padded, on A100 of 40 GB: reckoned, not measured."""

    read_bytes_s: float = 1.555e12
    weights_bytes: float = 20.66 * 2**30
    context_tokens: int = 2_000
    """Of one answer and its prompt: assumed."""
    kv_bytes_per_token: int = 64 * 2 * 3 * 128 * 2
    """Of one GPU: layers, key and value, KV heads of this GPU, head size, bytes."""

    def step_s(self, answers: int) -> float:
        """Weights are read once for all answers, each answer's keys and values for itself."""
        return (self.weights_bytes + answers * self.context_tokens * self.kv_bytes_per_token) / self.read_bytes_s


def step_cpu_s(answers: int) -> float:
    """Between the measured numbers of answers, linear."""
    return float(np.interp(answers, list(STEPS_CPU), list(STEPS_CPU.values())))


@dataclass(frozen=True)
class Host:
    """What one host brings."""

    name: str
    vision_places: int
    model: Model | None

    def rate(self, vision_s: Sequence[float]) -> float:
        """Pictures a second of the slower stage."""
        tools = self.vision_places / statistics.fmean(vision_s)
        if self.model is None:
            return tools
        answers = self.model.places / self.model.step_s(self.model.places) / statistics.fmean(self.model.tokens)
        return min(tools, self.model.hosts * answers)

    def times(self, hosts: int, vision_s: Sequence[float], rate: float) -> System:
        """So many of them, with as many coordinators as keep below the planned use."""
        model = self.model and Model(self.model.step_s, self.model.tokens, hosts, self.model.places)
        coordinators = max(1, -(-int(1000 * rate * COORDINATOR_S) // int(1000 * USE)))
        return System(vision_s, self.vision_places * hosts, COORDINATOR_S, coordinators, model)


MODEL_A100 = Model(A100Bound().step_s, ANSWER_TOKENS, places=16)
HOSTS = (
    Host("2 CPU cores, tools alone (measured)", 1, None),
    Host("2 CPU cores, small language model (measured)", 1, Model(step_cpu_s, ANSWER_TOKENS)),
    Host("4 x A100, the model at its bound, tools on 32 cores (reckoned)", 16, MODEL_A100),
)


def row(host: Host, vision_s: Sequence[float], factor: int, pictures: int) -> str:
    """One line: arithmetic on the left, simulation on the right."""
    rate = USE * host.rate(vision_s) * factor
    system = host.times(factor, vision_s, rate)
    seen = simulate(system, rate, max(pictures, int(60 * rate)))
    p50, p99 = seen.percentile(50), seen.percentile(99)
    cells = [f"{factor}", f"{system.coordinators}", f"{rate:.2f}", f"{rate * DAY_S:,.0f}", f"{seen.throughput:.2f}"]
    cells += [f"{seen.vision_use:.0%}", f"{seen.model_use:.0%}", f"{p50:.2f} s", f"{p99:.2f} s"]
    return "| " + " | ".join(cells) + " |"


def tables(vision_s: Sequence[float], pictures: int) -> str:
    """Markdown, a table for each kind of host."""
    parts = []
    for host in HOSTS:
        head = f"{host.name}: {host.rate(vision_s):.2f} pictures a second at full use.\n"
        columns = "hosts | coordinators | planned /s | pictures a day | simulated /s"
        columns += " | places at the tools in use | at the model | p50 | p99"
        lines = [head, f"| {columns} |", "|" + "---:|" * 9]
        lines += [row(host, vision_s, factor, pictures) for factor in (1, 10, 100, 1000)]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def compared(rate: float, measured: Sequence[float], system: System) -> str:
    """A line of the check: one measured run, seconds: the middle of RUNS simulated ones (95 of 100 of them)."""
    runs = [simulate(system, rate, len(measured), seed) for seed in range(RUNS)]
    cells = []
    for percent in (50, 90, 99):
        ours = [run.percentile(percent) for run in runs]
        low, middle, high = np.percentile(ours, [2.5, 50, 97.5])
        real = float(np.percentile(measured[int(WARM_UP * len(measured)) :], percent))
        cells.append(f"{real:.2f}: {middle:.2f} ({low:.2f} to {high:.2f})")
    return f"| {rate:.2f} | {len(measured)} | " + " | ".join(cells) + " |"


async def measure(address: str, pid: int, pictures: Sequence[bytes], seconds: float) -> None:
    """Times of single pictures, one after the other; then at random moments, beside the simulation."""
    async with open_channel(address) as channel:
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        for data in pictures[:3]:
            await _alone(stub, data)
        seen = [await _alone(stub, data) for data in pictures]
        times = [each[0] for each in seen]
        figures = {
            "vision_s": [round(each, 4) for each in times],
            "file_bytes": [len(data) for data in pictures],
            "report_bytes": [each[1] for each in seen],
        }
        TIMES_FILE.write_text(json.dumps(figures, indent=1) + "\n")
        mean = statistics.fmean(times)
        print(f"{len(times)} pictures, mean {mean:.3f} s, longest {max(times):.2f} s.\n")
        print("| a second | pictures | p50 measured: simulated (95 of 100) | p90 | p99 |\n|---:|---:|---|---|---|")
        for use in (0.4, 0.6):
            run = await Sender([stub], pictures, pid, seed=1).run(use / mean, seconds)
            rate = len(run.calls) / seconds
            print(compared(rate, [call.end_s for call in run.calls], System(times, 1)), flush=True)


async def _alone(stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub, data: bytes) -> tuple[float, int]:
    """Seconds to the report, and the report's size in bytes."""
    options = coordinator_pb2.AnalyzeOptions(skip_cache=True)
    start, size = time.perf_counter(), 0
    async for answer in stub.Analyze(coordinator_pb2.AnalyzeRequest(image=image_pb2.Image(data=data), options=options)):
        if answer.event.HasField("error"):
            raise RuntimeError(answer.event.error.message)
        size = answer.event.report.ByteSize()
    return time.perf_counter() - start, size


def subset(folder: Path, step: int, most_pixels: float) -> list[bytes]:
    """Every `step`-th picture of a manifest with at most so many pixels, in the manifest's order."""
    found = [item.path for item in read_manifest(folder)]

    def pixels(path: Path) -> int:
        with Image.open(path) as image:
            return image.width * image.height

    return [path.read_bytes() for path in found[::step] if pixels(path) <= most_pixels]


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, help="folder with manifest.csv")
    parser.add_argument("--pictures", type=int, default=20_000, help="in each simulation, at least those of a minute")
    parser.add_argument("--seconds", type=float, default=60.0, help="at each measured rate")
    options = parser.parse_args()
    if options.measure:
        print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before.", end=" ")
        plan = Plan({"vision_concurrency": "1"}, llm_s=0.0, vision=("vision_service",))
        with running(plan) as stack:
            pid = stack.processes["coordinator"].process.pid
            asyncio.run(measure(stack.addresses["coordinator"], pid, subset(options.measure, 4, 3e6), options.seconds))
        return
    print(tables(json.loads(TIMES_FILE.read_text())["vision_s"], options.pictures))


if __name__ == "__main__":
    main()
