"""What the vision service counts and shows (docs/metrics.md)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from serving.errors import Reason
from serving.item_stream import ByteBudget
from serving.metrics.buckets import PIXELS, SECONDS
from serving.metrics.registry import ServiceMetrics
from vision_service.analyzer import Analysis, Analyzer
from vision_service.domain import Outcome, ToolResult

_PHASES = ("queue", "decode", "substrate", "total")


class VisionMetrics(ServiceMetrics):
    """Pictures, tools, queue and memory."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._analysed = Counter("maifs_vision_pictures_total", "Pictures with a result.", registry=registry)
        self._failed = Counter(
            "maifs_vision_items_failed_total", "Items of streams that ended without a result.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._pixels = Histogram(
            "maifs_vision_picture_pixels", "Sizes of the pictures that were analysed.", buckets=PIXELS,
            registry=registry,
        )  # fmt: skip
        phases = Histogram(
            "maifs_vision_phase_duration_seconds", "Time of the phases of a picture but its tools.", ["phase"],
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._phases = {phase: phases.labels(phase) for phase in _PHASES}
        self._tools = Histogram(
            "maifs_vision_tool_duration_seconds", "Time that a tool takes for a picture.", ["tool"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._results = Counter(
            "maifs_vision_tool_results_total", "Results of tools by outcome and verdict.",
            ["tool", "outcome", "verdict"], registry=registry,
        )  # fmt: skip
        self._test_failures = Counter(
            "maifs_vision_test_failures_total", "Tests that broke on a picture; the tool's others went on.", ["test"],
            registry=registry,
        )  # fmt: skip
        self._states = _States(registry)

    def analysed(self, analysis: Analysis) -> None:
        """A picture has its result."""
        self._analysed.inc()
        self._pixels.observe(analysis.substrate.width_px * analysis.substrate.height_px)
        for phase, histogram in self._phases.items():
            if phase in analysis.timings_s:
                histogram.observe(analysis.timings_s[phase])
        for result in analysis.results:
            self._ran(result)

    def _ran(self, result: ToolResult) -> None:
        self._tools.labels(result.tool.value).observe(result.duration_s)
        self._results.labels(result.tool.value, result.outcome.value, result.verdict.value).inc()
        for finding in result.findings:
            if finding.observation.outcome is Outcome.FAILED:
                self._test_failures.labels(finding.id).inc()

    def failed(self, reason: Reason) -> None:
        """An item of a stream ended without a result, or was refused."""
        self._failed.labels(reason.name).inc()

    def show(self, analyzer: Analyzer, budget: ByteBudget, workers: int) -> None:
        """Makes the gauges tell the state of these."""

        async def look() -> None:
            self._states.look(analyzer, budget, workers)

        self.on_look.append(look)


class _States:
    """Gauges, set when somebody looks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"maifs_vision_{name}", text, registry=registry)

        self._queue = gauge("queue_items", "Pictures whose decoding has not begun.")
        self._oldest = gauge("queue_oldest_seconds", "For how long the first of them has waited.")
        self._workers = gauge("workers", "Threads for decoding and tools.")
        self._busy = gauge("workers_busy", "Those that have work.")
        self._longest = gauge("longest_step_seconds", "How long the oldest piece of work has been with its thread.")
        self._memory = gauge("memory_budget_used_bytes", "Estimated memory of the pictures in work.")
        self._memory_limit = gauge("memory_budget_limit_bytes", "Most of it: memory_budget_mib.")
        self._held = gauge("held_bytes", "Encoded pictures in memory.")
        self._held_limit = gauge("held_limit_bytes", "Most of them: max_held_bytes.")

    def look(self, analyzer: Analyzer, budget: ByteBudget, workers: int) -> None:
        self._queue.set(analyzer.waiting)
        self._oldest.set(analyzer.oldest_waiting_s)
        self._workers.set(workers)
        self._busy.set(analyzer.busy)
        self._longest.set(analyzer.longest_work_s)
        self._memory.set(analyzer.memory.held_bytes)
        self._memory_limit.set(analyzer.memory.limit_bytes)
        self._held.set(budget.held_bytes)
        self._held_limit.set(budget.limit_bytes)
