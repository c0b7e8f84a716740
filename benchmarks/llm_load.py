"""Load on a language model: questions, a fixed number of them in flight, and what each answer took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Question:
    """One request, in the terms that all targets share; greedy."""

    text: str
    max_tokens_count: int
    system: str = ""
    json_schema: str = ""

    def messages(self) -> list[dict[str, str]]:
        """As chat messages."""
        start = [{"role": "system", "content": self.system}] if self.system else []
        return [*start, {"role": "user", "content": self.text}]


@dataclass(frozen=True)
class Plan:
    """Questions, and how many of them are in flight at a time."""

    questions: tuple[Question, ...]
    concurrency: int

    def to_table(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Plan:
        """From `to_table`."""
        return cls(tuple(Question(**question) for question in table["questions"]), table["concurrency"])


@dataclass(frozen=True)
class Answered:
    """One answer."""

    first_s: float
    """From the request to the first piece of text."""
    last_s: float
    """From the request to the last piece of text."""
    tokens_count: int


@dataclass(frozen=True)
class Outcome:
    """A plan that was carried out."""

    wall_s: float
    answers: tuple[Answered, ...]
    cpu_s: dict[str, float]
    """CPU time of "client", "server" and "engine", as far as they are processes of their own."""

    @property
    def tokens_count(self) -> int:
        """Tokens of all answers."""
        return sum(answer.tokens_count for answer in self.answers)

    @property
    def tokens_per_s(self) -> float:
        """Of all answers together."""
        return self.tokens_count / self.wall_s

    @property
    def requests_per_s(self) -> float:
        """Answers that ended."""
        return len(self.answers) / self.wall_s

    def to_table(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_table(cls, table: dict[str, Any]) -> Outcome:
        """From `to_table`."""
        answers = tuple(Answered(**answer) for answer in table["answers"])
        return cls(table["wall_s"], answers, table["cpu_s"])


Ask = Callable[[Question], AsyncIterator[int]]
"""Asks; yields 0 for each piece of text as it comes, and at last the number of tokens."""


async def carry_out(ask: Ask, plan: Plan, cpu_s: Callable[[], dict[str, float]]) -> Outcome:
    """Asks all questions of a plan and times the answers."""
    waiting = list(reversed(plan.questions))
    answers: list[Answered] = []

    async def work() -> None:
        while waiting:
            answers.append(await _timed(ask, waiting.pop()))

    before = cpu_s()
    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(plan.concurrency)))
    wall_s = time.perf_counter() - start
    after = cpu_s()
    return Outcome(wall_s, tuple(answers), {name: after[name] - before[name] for name in after})


async def _timed(ask: Ask, question: Question) -> Answered:
    start = time.perf_counter()
    times: list[float] = []
    tokens_count = 0
    async for count in ask(question):
        tokens_count += count
        if not count:
            times.append(time.perf_counter() - start)
    return Answered(times[0], times[-1], tokens_count)


def inter_token_s(answers: Sequence[Answered]) -> list[float]:
    """Mean time between tokens, of each answer with at least two."""
    return [
        (answer.last_s - answer.first_s) / (answer.tokens_count - 1) for answer in answers if answer.tokens_count > 1
    ]
