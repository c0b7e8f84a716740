"""Waiting for what other parts do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Waits for a condition of another part."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the conditions belong to other parts
            await asyncio.sleep(0.01)


async def eventually(attempt: Callable[[], Awaitable[bool]], seconds: float = 60.0) -> None:
    """Tries until it works."""
    async with asyncio.timeout(seconds):
        while not await attempt():  # noqa: ASYNC110
            await asyncio.sleep(0.2)
