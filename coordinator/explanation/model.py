"""The language model as those ask it who want one structured answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.backends.fair_queue import Turn
from coordinator.backends.pool import Pool
from coordinator.llm_client import LlmClient, Message, watched


@dataclass(frozen=True)
class Answered:
    """What it said."""

    text: str
    model: str
    """Its name."""


class Model:
    """Several language models behind one question."""

    def __init__(self, pool: Pool[LlmClient], timeout_s: float) -> None:
        """Takes the backends.

        Args:
            pool: language models.
            timeout_s: most seconds that one answer may take.
        """
        self._pool, self.timeout_s = pool, timeout_s

    @property
    def takes_images(self) -> bool:
        """Whether every model that was heard of takes pictures, so that any of them can be asked."""
        known = [backend.client for backend in self._pool.backends if backend.identity]
        return bool(known) and all(client.takes_images for client in known)

    async def wait_serving(self, timeout_s: float) -> None:
        """Waits for a model that is still loading.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE, see Pool.wait_serving.
        """
        await self._pool.wait_serving(timeout_s)

    async def ask(
        self, messages: Sequence[Message], *, json_schema: str, max_tokens: int, timeout_s: float, turn: Turn
    ) -> Answered:
        """One answer, when it is the asker's turn.

        Raises:
            MaifsError: see LlmClient.generate.
        """
        async with self._pool.slot(turn) as backend:
            with watched(backend, self.timeout_s):
                name = (await backend.client.model()).model
                generation = await backend.client.generate(
                    messages,
                    json_schema=json_schema,
                    max_tokens=max_tokens,
                    timeout_s=min(timeout_s, self.timeout_s),
                    priority=turn.priority,
                )
            return Answered(generation.text, name)
