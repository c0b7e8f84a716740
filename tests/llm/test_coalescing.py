"""Deltas put together: the same text, fewer messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from llm_service.coalescing import coalesced
from llm_service.domain import Delta, Finish, FinishReason, Usage

FINISH = Finish(FinishReason.STOP, Usage(1, 0, 1), {})


async def play(texts: list[str], interval_s: float, step_s: float) -> list[Delta | Finish]:
    """What comes of deltas that arrive `step_s` apart."""
    now = 0.0

    async def events() -> AsyncGenerator[Delta | Finish, None]:
        nonlocal now
        for text in texts:
            now += step_s
            yield Delta(text)
        yield FINISH

    return [event async for event in coalesced(events(), interval_s, lambda: now)]


@pytest.mark.parametrize("interval_s", [0.0, 0.25, 1.0, 60.0])
async def test_the_text_is_the_same_and_the_end_comes_once_and_last(interval_s: float) -> None:
    events = await play([str(i) for i in range(30)], interval_s, 0.1)
    assert "".join(event.text for event in events if isinstance(event, Delta)) == "".join(str(i) for i in range(30))
    assert [isinstance(event, Finish) for event in events].count(True) == 1
    assert events[-1] is FINISH


async def test_the_first_comes_at_once_and_the_others_that_far_apart() -> None:
    events = await play(list("abcdefghij"), 0.35, 0.1)
    assert [event.text for event in events if isinstance(event, Delta)] == ["a", "bcde", "fghi", "j"]


async def test_without_an_interval_each_comes_by_itself() -> None:
    events = await play(list("abc"), 0.0, 0.1)
    assert [event.text for event in events if isinstance(event, Delta)] == ["a", "b", "c"]


async def test_an_answer_without_text_has_its_end_alone() -> None:
    assert await play([], 1.0, 0.1) == [FINISH]
