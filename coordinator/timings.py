"""How long the phases of one picture took."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from maifs.common.v1 import finding_pb2

PHASES = (
    "queue", "receive", "decode", "substrate", "frequency", "noise", "watermark", "spatial", "fusion", "prefix_warm",
    "explanation", "opinions", "total",
)  # fmt: skip
"""Names as the contract lists them, in their order."""


class Phases:
    """Wall times of the coordinator's own phases, from the moment that it is made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Adds the time of the block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, time.perf_counter() - start)

    def add(self, phase: str, seconds: float) -> None:
        """Adds time to a phase."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def merged(self, others: Iterable[finding_pb2.PhaseTiming]) -> list[finding_pb2.PhaseTiming]:
        """Together with a backend's phases: waits in queues add up, "total" is the coordinator's."""
        seconds = dict(self._seconds)
        for timing in others:
            if timing.phase != "total":
                seconds[timing.phase] = seconds.get(timing.phase, 0.0) + timing.duration.ToNanoseconds() / 1e9
        seconds["total"] = time.perf_counter() - self._start
        known = [phase for phase in PHASES if phase in seconds]
        ordered = known[:-1] + sorted(seconds.keys() - set(PHASES)) + known[-1:]
        return [_timing(phase, seconds[phase]) for phase in ordered]


def _timing(phase: str, seconds: float) -> finding_pb2.PhaseTiming:
    timing = finding_pb2.PhaseTiming(phase=phase)
    timing.duration.FromNanoseconds(int(seconds * 1e9))
    return timing
