"""What the coordinator counts and shows (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import Counter, Histogram

from coordinator.convert import VERDICT_NUMBERS
from coordinator.state_metrics import StateMetrics
from coordinator.timings import PHASES
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import report_pb2
from serving.errors import Reason
from serving.metrics.buckets import BYTES, SECONDS
from serving.metrics.registry import ServiceMetrics

_VERDICTS = {number: name for name, number in VERDICT_NUMBERS.items()}


class CoordinatorMetrics(ServiceMetrics):
    """Items, reports, phases. What describes a state stands in `coordinator.state_metrics`."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._accepted = Counter("maifs_coordinator_items_accepted_total", "Pictures let in.", registry=registry)
        self._failed = Counter(
            "maifs_coordinator_items_failed_total", "Pictures that ended without a report.", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._reports = Counter(
            "maifs_coordinator_reports_total", "Reports, by verdict and whether they were made before.",
            ["verdict", "cached"], registry=registry,
        )  # fmt: skip
        phases = Histogram(
            "maifs_coordinator_phase_duration_seconds", "Time of the phases of a picture that was not in the cache.",
            ["phase"], buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._phases = {phase: phases.labels(phase) for phase in PHASES}
        self._sizes = Histogram(
            "maifs_coordinator_picture_size_bytes", "Encoded size of the pictures that were analysed.", buckets=BYTES,
            registry=registry,
        )  # fmt: skip
        lookups = Counter(
            "maifs_coordinator_cache_lookups_total", "Searches for a report made before.", ["result"],
            registry=registry,
        )  # fmt: skip
        self._hit, self._miss = lookups.labels("hit"), lookups.labels("miss")
        explanations = Counter(
            "maifs_coordinator_explanations_total", "Explanations, by who wrote them.", ["author"], registry=registry
        )
        self._by_model, self._by_rules = explanations.labels("model"), explanations.labels("rules")
        self._unexplained = Counter(
            "maifs_coordinator_explanation_failures_total",
            "Explanations by the rules because the language model failed.", ["reason"], registry=registry,
        )  # fmt: skip
        self._resent = Counter(
            "maifs_coordinator_vision_retries_total", "Pictures sent a second time after a vision service was lost.",
            registry=registry,
        )  # fmt: skip
        self.states = StateMetrics(registry)

    def accepted(self) -> None:
        """A picture was let in."""
        self._accepted.inc()

    def failed(self, reason: Reason) -> None:
        """A picture ended without a report, or was refused."""
        self._failed.labels(reason.name).inc()

    def looked_up(self, *, hit: bool) -> None:
        """The cache was searched."""
        (self._hit if hit else self._miss).inc()

    def resent(self) -> None:
        """A picture goes to the vision service again."""
        self._resent.inc()

    def explained(self, error: Reason | None, *, by_model: bool) -> None:
        """An explanation was written; `error` says why the language model has no part in it."""
        (self._by_model if by_model else self._by_rules).inc()
        if error:
            self._unexplained.labels(error.name).inc()

    def reported(self, report: report_pb2.Report, size_bytes: int, *, cached: bool) -> None:
        """A report was made, or found."""
        self._reports.labels(_VERDICTS.get(report.verdict, "unspecified"), str(cached).lower()).inc()
        self._sizes.observe(size_bytes)
        if not cached:
            self._took(report.timings)

    def _took(self, timings: Iterable[finding_pb2.PhaseTiming]) -> None:
        for timing in timings:
            known = self._phases.get(timing.phase)  # a backend of another version may have others
            if known:
                known.observe(timing.duration.ToNanoseconds() / 1e9)
