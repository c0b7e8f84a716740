"""The LLM service against the bare AsyncLLM and vLLM's OpenAI HTTP server: same engine settings, same prompts, one run.

`python -m benchmarks.llm_service MODEL_DIR [--quick] [--rounds N]` prints Markdown tables. All three run at once, each
with an engine of its own, and take turns: every round asks each of them the same new questions, in an order that
changes, and ratios are taken within a round, so that a machine that slows down slows all three. Needs a CPU engine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.llm_load import Outcome, Plan, Question, inter_token_s
from benchmarks.llm_targets import GrpcTarget, Target, Targets

SETTINGS = {
    "max_running_requests_count": 32,
    "max_queued_requests_count": 64,
    "max_model_len_tokens_count": 2048,
    "max_batched_tokens_count": 2048,
    "max_output_tokens_count": 512,
}
CONCURRENCIES = (1, 8, 32)
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "verdict": {"enum": ["authentic", "manipulated", "generated"]},
            "reasons": {"type": "array", "items": {"type": "string", "maxLength": 80}, "minItems": 3, "maxItems": 4},
        },
        "required": ["verdict", "reasons"],
        "additionalProperties": False,
    }
)
SYSTEM = "You explain to a person what four forensic tools found in a picture, and what they did not find. " * 30
_TOPICS = ("a river", "a mill", "a lighthouse", "a market", "a desert", "an orchestra", "a railway", "a beehive")


@dataclass(frozen=True)
class Extent:
    """How much is measured."""

    rounds: int
    requests: dict[int, int]
    """Requests in a round, by concurrency."""
    output_tokens_count: int
    first_tokens: int
    """Single-token requests to each target."""

    @classmethod
    def of(cls, *, quick: bool, rounds: int | None) -> Extent:
        """The quick extent takes three minutes, the full one about ten. Rounds in threes let each target be first."""
        if quick:
            return cls(rounds or 3, {1: 2, 8: 8, 32: 32}, 32, 12)
        return cls(rounds or 6, {1: 4, 8: 16, 32: 64}, 48, 40)


def stories(label: str, count: int, max_tokens_count: int) -> tuple[Question, ...]:
    """Questions with long answers; no two begin alike, so that the prefix cache finds only the template's beginning."""
    return tuple(
        Question(f"{label}-{n}: write a very long story about {_TOPICS[n % len(_TOPICS)]}.", max_tokens_count)
        for n in range(count)
    )


Rounds = dict[str, list[Outcome]]
"""Outcomes of each target, one a round."""


async def take_turns(targets: Sequence[Target], plans: Iterable[Plan]) -> Rounds:
    """Each plan by each target, in an order that rotates."""
    found: Rounds = {target.name: [] for target in targets}
    for turn, plan in enumerate(plans):
        for offset in range(len(targets)):
            target = targets[(turn + offset) % len(targets)]
            found[target.name].append(await target.run(plan))
    return found


def median_ms(values: Iterable[float]) -> str:
    """In milliseconds."""
    return f"{statistics.median(list(values) or [math.nan]) * 1e3:.1f}"


def ratio(rounds: Rounds, name: str, to: str, value: Callable[[Outcome], float]) -> str:
    """Median and range of the ratio within a round."""
    ratios = [value(one) / value(other) for one, other in zip(rounds[name], rounds[to], strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def cpu_per_token_ms(outcomes: Sequence[Outcome], part: str) -> float:
    """CPU time of a part, per token."""
    return sum(o.cpu_s.get(part, 0.0) for o in outcomes) / sum(o.tokens_count for o in outcomes) * 1e3


async def throughput(targets: Sequence[Target], extent: Extent) -> str:
    """Tokens, requests, first token, time between tokens and CPU time, at each concurrency."""
    lines = [
        "| in flight | | tokens/s | requests/s | first token | between tokens | tokens/s to bare | CPU per token: "
        "server, client, engine |",
        "|---:|---|---:|---:|---:|---:|---|---|",
    ]
    for concurrency in CONCURRENCIES:
        plans = [
            Plan(stories(f"r{n}c{concurrency}", extent.requests[concurrency], extent.output_tokens_count), concurrency)
            for n in range(extent.rounds)
        ]
        rounds = await take_turns(targets, plans)
        for name, outcomes in rounds.items():
            answers = [answer for outcome in outcomes for answer in outcome.answers]
            cpu = ", ".join(f"{cpu_per_token_ms(outcomes, part):.2f}" for part in ("server", "client", "engine"))
            lines.append(
                f"| {concurrency} | {name} | {statistics.median(o.tokens_per_s for o in outcomes):.1f} | "
                f"{statistics.median(o.requests_per_s for o in outcomes):.2f} | "
                f"{median_ms(a.first_s for a in answers)} ms | {median_ms(inter_token_s(answers))} ms | "
                f"{ratio(rounds, name, 'bare', lambda o: o.tokens_per_s)} | {cpu} ms |"
            )
    return "\n".join(lines)


async def first_token(targets: Sequence[Target], extent: Extent) -> str:
    """Time to the first token alone, with a cached prompt: what is left is mostly what a server adds."""
    question = Question("Write a very long story about a river.", 1)
    await take_turns(targets, [Plan((question,), 1)] * 2)
    rounds = await take_turns(targets, [Plan((question,), 1)] * extent.first_tokens)
    seconds = {name: [o.answers[0].first_s for o in outcomes] for name, outcomes in rounds.items()}
    lines = ["| | first token | added to bare, median of pairs |", "|---|---:|---:|"]
    for name, values in seconds.items():
        added = [value - bare for value, bare in zip(values, seconds["bare"], strict=True)]
        lines.append(f"| {name} | {median_ms(values)} ms | {median_ms(added)} ms |")
    return "\n".join(lines)


async def structured(target: Target, extent: Extent) -> str:
    """The same questions to the service with and without a JSON schema."""
    texts = [f"{n}: is a photo with two copied trees authentic? Give four long reasons." for n in range(16)]
    plans = {
        "free text": Plan(tuple(Question(text, extent.output_tokens_count) for text in texts), 8),
        "JSON schema": Plan(tuple(Question(t, extent.output_tokens_count, json_schema=SCHEMA) for t in texts), 8),
    }
    rounds: Rounds = {name: [] for name in plans}
    for plan in plans.values():
        await target.run(plan)
    for _ in range(2 * extent.rounds):
        for name, plan in plans.items():
            rounds[name].append(await target.run(plan))
    lines = ["| | tokens/s | first token | tokens/s to free text |", "|---|---:|---:|---|"]
    for name, outcomes in rounds.items():
        firsts = (answer.first_s for outcome in outcomes for answer in outcome.answers)
        lines.append(
            f"| {name} | {statistics.median(o.tokens_per_s for o in outcomes):.1f} | {median_ms(firsts)} ms | "
            f"{ratio(rounds, name, 'free text', lambda o: o.tokens_per_s)} |"
        )
    return "\n".join(lines)


async def prefix(target: GrpcTarget, extent: Extent) -> str:
    """First token after a long system message, cold and after WarmPrefix."""
    seconds: dict[str, list[float]] = {"cold": [], "after WarmPrefix": []}
    for n in range(2 * extent.rounds):
        for name, values in seconds.items():
            system = f"{name} {n}. {SYSTEM}"
            if name != "cold":
                await target.warm(system)
            outcome = await target.run(Plan((Question("What did the tools find?", 1, system=system),), 1))
            values.append(outcome.answers[0].first_s)
    rows = [f"| {name} | {median_ms(values)} ms |" for name, values in seconds.items()]
    return "\n".join(["| system message | first token |", "|---|---:|", *rows])


async def measure(model: Path, extent: Extent) -> None:
    """Starts all three and prints every table."""
    with TemporaryDirectory(prefix="maifs-") as folder:
        async with Targets(Path(folder), SETTINGS | {"model": str(model)}) as targets:
            service = next(target for target in targets if isinstance(target, GrpcTarget))
            await take_turns(targets, [Plan(stories("warm", 8, 16), 8)])
            report("Throughput", await throughput(targets, extent))
            report("First token", await first_token(targets, extent))
            report("Structured output", await structured(service, extent))
            report("Prefix warm-up", await prefix(service, extent))


def report(title: str, table: str) -> None:
    """Prints one table with the load of the machine at its end."""
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{title} (load average {load})\n\n{table}", flush=True)


def main() -> None:
    """See module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="model directory")
    parser.add_argument("--quick", action="store_true", help="three minutes in place of ten")
    parser.add_argument("--rounds", type=int)
    arguments = parser.parse_args()
    extent = Extent.of(quick=arguments.quick, rounds=arguments.rounds)
    processor = platform.processor() or platform.machine()
    print(f"{processor}, {os.cpu_count()} cores, Python {platform.python_version()}, {arguments.model.name}; {extent}")
    sys.stdout.flush()
    asyncio.run(measure(arguments.model.resolve(), extent))


if __name__ == "__main__":
    main()
