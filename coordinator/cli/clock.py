"""Where the time of a run went."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field

from coordinator.client.stream import Event, Failed, Reported, ToolEnded
from coordinator.render.phrases import seconds


@dataclass
class RunClock:
    """Marks of one run, in seconds since its beginning."""

    _zero: float = field(default_factory=time.monotonic)
    marks: dict[str, float] = field(default_factory=dict)
    """"services" (vision and coordinator serve), "model" (the wait for the language model is over), "sending",
    "first_finding", "first_report", "last_report", "stopped"; what did not happen is missing."""
    phases_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """Sums over all reports by phase."""
    reported_count: int = 0
    failed_count: int = 0

    def mark(self, name: str) -> None:
        """Notes the first time that something happens."""
        self.marks.setdefault(name, time.monotonic() - self._zero)

    def event(self, event: Event) -> None:
        """Notes what an event tells."""
        if isinstance(event, ToolEnded):
            self.mark("first_finding")
        elif isinstance(event, Failed):
            self.failed_count += 1
        elif isinstance(event, Reported):
            self.mark("first_report")
            self.reported_count += 1
            for timing in event.report.timings:
                self.phases_s[timing.phase] += timing.duration.ToNanoseconds() / 1e9

    def summary(self) -> list[str]:
        """Lines for the end of the run."""
        marks = self.marks
        parts = []
        if "services" in marks:
            parts.append(f"services ready {seconds(marks['services'])}")
        if "model" in marks:
            parts.append(f"language model ready {seconds(marks['model'])}")
        for name, words in (("first_finding", "first finding"), ("first_report", "first report")):
            if name in marks:
                parts.append(f"{words} {seconds(marks[name])}")
        if "last_report" in marks:
            parts.append(f"all reports {seconds(marks['last_report'])}")
        if "stopped" in marks:
            parts.append(f"services stopped {seconds(marks['stopped'])}")
        lines = [f"After the start: {', '.join(parts)}."] if parts else []
        if self.reported_count:
            means = [f"{name} {seconds(total / self.reported_count)}" for name, total in self.phases_s.items()]
            lines.append(f"Mean per picture: {', '.join(means)}.")
        return lines
