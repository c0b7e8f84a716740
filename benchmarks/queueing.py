"""A simulation of discrete events: pictures on their way through coordinator, vision services and language models.

Pictures arrive as a Poisson process. Each stage has one queue, first come, first served, as coordinator/backends has:
the first free place at any vision service takes the next picture; the language model with the fewest answers in flight
takes the next explanation. Answers in flight share a batch: with n of them a token of each takes `step_s(n)`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

WARM_UP = 0.1
"""Share of the pictures, from the first on, that no latency and no wait counts."""


@dataclass(frozen=True)
class Model:
    """Services of one language model."""

    step_s: Callable[[int], float]
    """Seconds for one token of each answer, by the number of answers in flight."""
    tokens: Sequence[float]
    """Lengths of answers, to be drawn from."""
    hosts: int = 1
    places: int = 8
    """Answers in flight with each."""


@dataclass(frozen=True)
class System:
    """What is simulated. Times in seconds."""

    vision_s: Sequence[float]
    """Times of single pictures at a place, to be drawn from."""
    vision_places: int
    """Over all hosts."""
    coordinator_s: float = 0.0
    """Of one picture at the event loop of a coordinator."""
    coordinators: int = 1
    model: Model | None = None


@dataclass
class Figures:
    """What came out. Times in seconds."""

    latencies: list[float] = field(default_factory=list)
    vision_waits: list[float] = field(default_factory=list)
    throughput: float = 0.0
    """Reports a second, in the second half of the time in which pictures arrive."""
    vision_use: float = 0.0
    """Share of the places' time."""
    model_use: float = 0.0
    """Answers in flight, as a share of the places for them."""

    def percentile(self, percent: float) -> float:
        """Of the latencies, nearest rank."""
        ordered = sorted(self.latencies)
        return ordered[max(math.ceil(percent / 100 * len(ordered)) - 1, 0)]


class _Clock:
    """Events in the order of time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._numbers), event))

    def run(self) -> None:
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()


class _Places:
    """Servers behind one queue; calls `then(picture)` at each end."""

    def __init__(self, clock: _Clock, places: int, then: Callable[[int], None]) -> None:
        self._clock, self._free, self._then = clock, places, then
        self._queue: deque[tuple[int, float, float]] = deque()
        self.busy_s = 0.0
        self.waits: dict[int, float] = {}

    def take(self, picture: int, service_s: float) -> None:
        self._queue.append((picture, service_s, self._clock.now))
        self._begin()

    def _begin(self) -> None:
        while self._free and self._queue:
            picture, service_s, since = self._queue.popleft()
            self._free -= 1
            self.busy_s += service_s
            self.waits[picture] = self._clock.now - since
            self._clock.at(self._clock.now + service_s, lambda ended=picture: self._end(ended))  # type: ignore[misc]

    def _end(self, picture: int) -> None:
        self._free += 1
        self._begin()
        self._then(picture)


class _Batch:
    """One language model: every answer gains a token each `step_s(answers)`."""

    def __init__(self, clock: _Clock, step_s: Callable[[int], float], then: Callable[[int], None]) -> None:
        self._clock, self._step_s, self._then = clock, step_s, then
        self._ends: list[tuple[float, int]] = []
        """(tokens at the end, picture), by the count of tokens that an answer from the first moment on would have."""
        self._tokens = self._since = self.answers_s = 0.0
        self._plan = 0

    def __len__(self) -> int:
        return len(self._ends)

    def take(self, picture: int, tokens: float) -> None:
        self._advance()
        heapq.heappush(self._ends, (self._tokens + tokens, picture))
        self._schedule()

    def _advance(self) -> None:
        passed = self._clock.now - self._since
        if self._ends:
            self._tokens += passed / self._step_s(len(self._ends))
            self.answers_s += passed * len(self._ends)
        self._since = self._clock.now

    def _schedule(self) -> None:
        self._plan += 1
        if self._ends:
            left = (self._ends[0][0] - self._tokens) * self._step_s(len(self._ends))
            plan = self._plan
            self._clock.at(self._clock.now + max(left, 0.0), lambda: self._end(plan))

    def _end(self, plan: int) -> None:
        if plan != self._plan:  # another answer has come since
            return
        self._advance()
        _, picture = heapq.heappop(self._ends)
        self._schedule()
        self._then(picture)


class _Models:
    """Language models behind one queue."""

    def __init__(self, clock: _Clock, model: Model, then: Callable[[int], None]) -> None:
        self._model, self._then = model, then
        self._batches = [_Batch(clock, model.step_s, self._end) for _ in range(model.hosts)]
        self._queue: deque[tuple[int, float]] = deque()

    @property
    def answers_s(self) -> float:
        """Seconds of all answers in flight together."""
        return sum(batch.answers_s for batch in self._batches)

    def take(self, picture: int, tokens: float) -> None:
        self._queue.append((picture, tokens))
        self._begin()

    def _begin(self) -> None:
        while self._queue and len(least := min(self._batches, key=len)) < self._model.places:
            least.take(*self._queue.popleft())

    def _end(self, picture: int) -> None:
        self._begin()
        self._then(picture)


def simulate(system: System, rate: float, pictures: int, seed: int = 0) -> Figures:
    """`pictures` arrivals at `rate` a second, until the last has its report."""
    dice, clock, arrived, figures = random.Random(seed), _Clock(), dict[int, float](), Figures()
    counted = int(pictures * WARM_UP)
    model = system.model

    ends: list[float] = []

    def end(picture: int) -> None:
        ends.append(clock.now)
        if picture >= counted:
            figures.latencies.append(clock.now - arrived[picture])

    models = _Models(clock, model, end) if model else None

    def explain(picture: int) -> None:
        if models and model:
            models.take(picture, dice.choice(model.tokens))
        else:
            end(picture)

    vision = _Places(clock, system.vision_places, explain)
    loops = _Places(clock, system.coordinators, lambda picture: vision.take(picture, dice.choice(system.vision_s)))

    def arrive(picture: int) -> None:
        arrived[picture] = clock.now
        if picture + 1 < pictures:
            clock.at(clock.now + dice.expovariate(rate), lambda: arrive(picture + 1))
        loops.take(picture, system.coordinator_s)

    clock.at(0.0, lambda: arrive(0))
    clock.run()
    figures.vision_waits = [wait for picture, wait in vision.waits.items() if picture >= counted]
    last = arrived[pictures - 1]
    figures.throughput = sum(last / 2 <= moment <= last for moment in ends) / (last / 2)
    figures.vision_use = vision.busy_s / system.vision_places / clock.now
    figures.model_use = models.answers_s / model.hosts / model.places / clock.now if models and model else 0.0
    return figures
