"""Deltas put together, for clients that want the text and not its typing."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from llm_service.domain import Delta, Finish

MAX_DELTA_INTERVAL_S = 60.0


async def coalesced(
    events: AsyncGenerator[Delta | Finish, None], interval_s: float, clock: Callable[[], float] = time.monotonic
) -> AsyncGenerator[Delta | Finish, None]:
    """The same text in fewer deltas: the first at once, the others at least `interval_s` apart, the rest at the end."""
    waiting: list[Delta] = []
    sent: float | None = None
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Finish):
                if waiting:
                    yield _together(waiting)
                yield event
                return
            waiting.append(event)
            now = clock()
            if sent is None or now - sent >= interval_s:
                yield _together(waiting)
                waiting, sent = [], now


def _together(deltas: list[Delta]) -> Delta:
    if len(deltas) == 1:
        return deltas[0]
    return Delta("".join(delta.text for delta in deltas), tuple(token for delta in deltas for token in delta.logprobs))
