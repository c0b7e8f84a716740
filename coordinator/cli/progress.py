"""What a person sees while the work goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from coordinator.client.stream import Event, Failed, Reported, Sent, ToolEnded, VerdictKnown
from coordinator.embedded import ServiceName, State

TOOLS_COUNT = 4
_SERVICE_WORDS: dict[ServiceName, str] = {
    "vision": "vision service",
    "coordinator": "coordinator",
    "llm": "language model",
}
_STATE_WORDS: dict[State, str] = {
    "starting": "Starting {}",
    "serving": "Started {}",
    "failed": "[red]Failed: {}[/]",
    "stopping": "Stopping {}",
    "stopped": "Stopped {}",
}


class Display(Protocol):
    """Listens to the run."""

    def service(self, name: ServiceName, state: State, elapsed_s: float) -> None:
        """A service of our own changed its state."""

    def begin(self, pictures_count: int) -> None:
        """The analysis begins."""

    def event(self, event: Event) -> None:
        """Something happened to a picture."""

    def close(self) -> None:
        """The end, good or bad; may be called twice."""


class NoDisplay:
    """Shows nothing."""

    def service(self, name: ServiceName, state: State, elapsed_s: float) -> None:
        """See Display."""

    def begin(self, pictures_count: int) -> None:
        """See Display."""

    def event(self, event: Event) -> None:
        """See Display."""

    def close(self) -> None:
        """See Display."""


class _Rate(ProgressColumn):
    """Pictures a second, or seconds a picture where that reads better."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        speed = task.finished_speed or task.speed or 0.0
        if not speed or task.total == 1:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{1 / speed:.1f} s each", style="progress.data.speed")


class LiveDisplay:
    """A few lines that renew themselves: a row per starting service, then a row per stage."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            speed_estimate_period=60.0,
        )
        self._services: dict[ServiceName, TaskID] = {}
        self._stages: dict[str, TaskID] = {}
        self._seen: dict[str, set[tuple[int, int]]] = {}
        self._progress.start()

    def service(self, name: ServiceName, state: State, elapsed_s: float) -> None:
        """See Display."""
        if state == "starting":
            self._services[name] = self._progress.add_task(_STATE_WORDS[state].format(_SERVICE_WORDS[name]), total=1)
            return
        description = _STATE_WORDS[state].format(_SERVICE_WORDS[name])
        if state == "stopping":
            self._progress.reset(self._services[name], description=description, visible=True)
        else:
            self._progress.update(self._services[name], completed=1, description=description)

    def begin(self, pictures_count: int) -> None:
        """See Display."""
        for name, task in self._services.items():
            self._progress.update(task, visible=name == "llm" and not self._progress.tasks[task].finished)
        totals = {"Sent": 1, "Tools": TOOLS_COUNT, "Verdicts": 1, "Reports": 1}
        for stage, factor in totals.items():
            self._stages[stage] = self._progress.add_task(stage, total=pictures_count * factor)
            self._seen[stage] = set()

    def event(self, event: Event) -> None:
        """See Display."""
        if isinstance(event, Sent):
            self._mark("Sent", event.index)
        elif isinstance(event, ToolEnded):
            self._mark("Tools", event.index, (event.result.tool,))
        elif isinstance(event, VerdictKnown):
            self._mark("Verdicts", event.index)
        elif isinstance(event, Reported | Failed):
            for stage in ("Sent", "Verdicts", "Reports"):
                self._mark(stage, event.index)
            self._mark("Tools", event.index, range(1, TOOLS_COUNT + 1))

    def _mark(self, stage: str, index: int, parts: Sequence[int] = (0,)) -> None:
        seen = self._seen[stage]
        seen.update((index, part) for part in parts)
        self._progress.update(self._stages[stage], completed=len(seen))

    def close(self) -> None:
        """See Display."""
        self._progress.stop()
