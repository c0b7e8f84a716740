"""Runs the tools over pictures: decoding and tools in worker threads, results as each tool ends. Knows no gRPC.

Work is scheduled by (picture, tool): one picture alone gets its tools in parallel; many pictures keep every worker
busy. At most `workers` pictures are in decoded form at a time, and no more than the memory budget holds; the others
wait as encoded bytes.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

from serving.errors import MaifsError, Reason
from serving.tracing import record, span
from vision_service.calibration import Calibration
from vision_service.decoding.decoder import Decoder, OpenedPicture
from vision_service.domain import HeatMap, Tool, ToolName, ToolResult
from vision_service.limits import DecodeLimits
from vision_service.memory import MemoryBudget, estimate_bytes, guarded
from vision_service.runner import run_tool
from vision_service.substrate import Substrate
from vision_service.tools import TOOLS
from vision_service.tools.spatial.fused_map import fuse_maps

T = TypeVar("T")

_FIRST_TO_LAST = (ToolName.NOISE, ToolName.SPATIAL, ToolName.FREQUENCY, ToolName.WATERMARK)
"""Order in which the tools of a picture begin where workers are few: a quick one for an early first result, then the
longest, so that none of the workers is left with a long one at the end."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """Everything the tools say of one picture."""

    substrate: Substrate
    results: tuple[ToolResult, ...]
    """In the order of the tools."""
    timings_s: dict[str, float]
    """Wall seconds by phase: "queue", "decode", "substrate", one per tool, "total"."""
    fused_map: HeatMap | None


class Analyzer:
    """The tools behind a queue.

    Args:
        limits: what is refused.
        device: where tensors live.
        workers: threads.
        max_queued: items that may wait.
        calibration: weights of evidence.
        memory: what pictures may take together.
        tools: the tools to run.
        decoder: who decodes, and is closed with the analyzer; workers of its own when not given.
    """

    def __init__(
        self,
        limits: DecodeLimits,
        device: torch.device,
        workers: int,
        max_queued: int,
        calibration: Calibration,
        memory: MemoryBudget,
        tools: Sequence[Tool] = TOOLS,
        decoder: Decoder | None = None,
    ) -> None:
        self.limits, self.device, self.calibration, self.memory = limits, device, calibration, memory
        self.tools = {tool.name: tool for tool in tools}
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="vision")
        self._decoder = decoder or Decoder(limits, workers)
        self._decoded = asyncio.Semaphore(workers)
        self._max_queued = max_queued
        self._begun: dict[object, float] = {}
        self._waiting: dict[object, float] = {}

    async def analyze(self, data: bytes, names: Sequence[ToolName] = ()) -> AsyncIterator[ToolResult | Analysis]:
        """Yields each tool's result as it ends, then the analysis.

        Args:
            data: the encoded file.
            names: tools to run; all when empty.

        Raises:
            MaifsError: QUEUE_FULL, EXCEEDS_MEMORY_BUDGET, OUT_OF_MEMORY, or what `decode` raises.
        """
        if self.waiting >= self._max_queued:
            raise MaifsError(
                Reason.QUEUE_FULL,
                f"{self.waiting} pictures are waiting, the limit.",
                "Send the picture again after the delay.",
                retry_after_s=2.0,
            )
        start = time.perf_counter()
        place = object()
        self._waiting[place] = time.monotonic()
        try:
            await self._decoded.acquire()
        finally:
            del self._waiting[place]
        size_bytes = 0
        running: set[asyncio.Future[ToolResult]] = set()
        try:
            picture = await self._run(lambda: self._decoder.open(data))
            wanted_bytes = estimate_bytes(*await self._run(picture.size))
            await self.memory.acquire(wanted_bytes)
            size_bytes = wanted_bytes
            queue_s = time.perf_counter() - start
            record("queue", start, queue_s)
            substrate, timings_s = await self._run(lambda: _prepare(picture, self.device))
            chosen = [tool for name, tool in self.tools.items() if not names or name in names]
            begun = sorted(chosen, key=lambda tool: _FIRST_TO_LAST.index(tool.name))
            running = {self._run_tool(tool, substrate) for tool in begun}
            results: dict[ToolName, ToolResult] = {}
            for next_result in asyncio.as_completed(running):
                result = await next_result
                results[result.tool] = result
                yield result
            ordered = tuple(results[tool.name] for tool in chosen)
            timings_s |= {result.tool.value: result.duration_s for result in ordered}
            fused_map = await self._run(lambda: _fuse(ordered, substrate))
            timings_s |= {"queue": queue_s, "total": time.perf_counter() - start}
            yield Analysis(substrate, ordered, timings_s, fused_map)
        finally:
            await _settle(running)
            self.memory.release(size_bytes)
            self._decoded.release()

    def _run(self, work: Callable[[], T]) -> asyncio.Future[T]:
        context = contextvars.copy_context()  # request id and trace, for what is logged in the thread
        return asyncio.get_running_loop().run_in_executor(self._pool, context.run, self._work, work)

    def _work(self, work: Callable[[], T]) -> T:
        key = object()
        self._begun[key] = time.monotonic()
        try:
            return guarded(work, self.device)
        finally:
            del self._begun[key]

    @property
    def waiting(self) -> int:
        """Items admitted whose decoding has not begun."""
        return len(self._waiting)

    @property
    def oldest_waiting_s(self) -> float:
        """For how long the first of those has waited; 0 when none does."""
        return time.monotonic() - next(iter(self._waiting.values())) if self._waiting else 0.0

    @property
    def busy(self) -> int:
        """Pieces of work that are with a thread."""
        return len(self._begun)

    @property
    def longest_work_s(self) -> float:
        """How long the oldest piece of work has been with its thread: decoding, one tool, or the fusion of maps."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def _run_tool(self, tool: Tool, substrate: Substrate) -> asyncio.Future[ToolResult]:
        def run() -> ToolResult:
            with span(f"tool {tool.name.value}"):
                return run_tool(tool, substrate, self.calibration)

        return self._run(run)

    def close(self) -> None:
        """Ends the workers after the work in hand."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._decoder.close()


async def _settle(running: set[asyncio.Future[ToolResult]]) -> None:
    """Waits for tools that an abandoned picture left running: a thread cannot be stopped, and its memory counts."""
    for future in running:
        future.cancel()
    unfinished = [future for future in running if not future.done()]
    if unfinished:
        await asyncio.shield(asyncio.wait(unfinished))


def _prepare(picture: OpenedPicture, device: torch.device) -> tuple[Substrate, dict[str, float]]:
    """Decodes, and computes what several tools would otherwise compute at the same moment."""
    start = time.perf_counter()
    with span("decode"):
        substrate = picture.decode(device)
    decoded = time.perf_counter()
    _ = substrate.luma, substrate.jpeg, substrate.stratum, substrate.sha256
    return substrate, {"decode": decoded - start, "substrate": time.perf_counter() - decoded}


def _fuse(results: Sequence[ToolResult], substrate: Substrate) -> HeatMap | None:
    weighted = [
        (finding.observation.heat_map, max(finding.manipulated.log10_lr, finding.ai_generated.log10_lr))
        for result in results
        for finding in result.findings
        if finding.observation.heat_map is not None
    ]
    counting = [(heat_map, weight) for heat_map, weight in weighted if heat_map is not None and weight > 0]
    return fuse_maps(counting, substrate.height_px, substrate.width_px) if counting else None
