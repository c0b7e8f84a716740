"""The tools' part of one picture: its turn at a vision service, its events, a second try where that can help."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator

from coordinator.backends.backend import Backend
from coordinator.backends.fair_queue import Turn
from coordinator.backends.pool import Pool
from coordinator.timings import Phases
from coordinator.vision_client import Picture, VisionClient, VisionEvent
from maifs.common.v1 import finding_pb2
from serving.errors import MaifsError, Reason
from serving.tracing import record, span

_log = logging.getLogger(__name__)

RETRY_DELAY_S = 0.3
"""Wait before a picture is sent a second time when there is no other vision service."""

_ADVICE = "Send it again with a later deadline."

Events = asyncio.Queue[VisionEvent | BaseException | str]


class Look:
    """One picture at the vision service."""

    def __init__(
        self,
        pool: Pool[VisionClient],
        picture: Picture,
        turn: Turn,
        phases: Phases,
        *,
        timeout_s: float,
        deadline: float,
    ) -> None:
        """Prepares the look.

        Args:
            pool: the vision services.
            picture: the file.
            turn: for whom.
            phases: takes the time that it waited as "queue".
            timeout_s: most seconds at the vision service, both tries together.
            deadline: moment by the event loop's clock at which the client gives up.
        """
        self._pool, self._picture, self._turn, self._phases = pool, picture, turn, phases
        self._left_s, self._deadline = timeout_s, deadline
        self._seen: set[int] = set()
        self.resent = False
        """Whether the picture was sent a second time."""
        self.identity = ""
        """Versions of the service that did the work; empty when they are not known."""

    async def events(self) -> AsyncIterator[VisionEvent]:
        """Tool results as the tools end, then the result.

        They pass through a queue of their own (a picture has five at most), so that a client that reads slowly does
        not keep a place at the vision service from the pictures of others.

        Raises:
            MaifsError: as Pool.slot and VisionClient.analyze.
        """
        events: Events = asyncio.Queue()
        task = asyncio.ensure_future(self._fill(events))
        try:
            while not isinstance(event := await events.get(), str):
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            task.cancel()

    async def _fill(self, events: Events) -> None:
        try:
            await self._send(events)
            events.put_nowait("end")
        except Exception as error:  # noqa: BLE001 - raised again by `events`
            events.put_nowait(error)

    async def _send(self, events: Events) -> None:
        retry_delay_s = await self._try(events, self._turn, last=False)
        if retry_delay_s is not None:
            self.resent = True
            await asyncio.sleep(retry_delay_s)
            await self._try(events, self._turn.again(), last=True)

    async def _try(self, events: Events, turn: Turn, *, last: bool) -> float | None:
        """Sends the picture once.

        Returns:
            None when that went well; else the seconds after which to try again.
        """
        clock = asyncio.get_running_loop().time
        waiting = clock()
        begin = time.perf_counter()
        # a second try was let in before
        async with self._pool.slot(turn, math.inf if last else self._deadline) as backend:
            self._phases.add("queue", clock() - waiting)
            record("queue", begin, time.perf_counter() - begin, backend="vision")
            start, identity = clock(), backend.identity
            timeout_s = min(self._left_s, self._deadline - start)
            if timeout_s <= 0:
                raise MaifsError(Reason.DEADLINE_EXCEEDED, "The deadline passed while the picture waited.", _ADVICE)
            try:
                await self._forward(backend, events, timeout_s)
            except MaifsError as error:
                self._tell(backend, error, had_all_the_time=timeout_s == self._left_s)
                self._left_s -= clock() - start
                delay_s = 0.0 if self._pool.has_other(backend) else RETRY_DELAY_S
                retry = error.reason is Reason.BACKEND_UNAVAILABLE and not self._seen and not last
                if not retry or self._deadline - clock() <= delay_s:
                    raise
                _log.info("vision unavailable, sending the picture again", extra={"detail": error.message})
                return delay_s
            backend.succeeded()
            self.identity = identity if identity == backend.identity else ""
        return None

    @staticmethod
    def _tell(backend: Backend[VisionClient], error: MaifsError, *, had_all_the_time: bool) -> None:
        backend.failed(error)
        if error.reason is Reason.DEADLINE_EXCEEDED and had_all_the_time:
            backend.timed_out()

    async def _forward(self, backend: Backend[VisionClient], events: Events, timeout_s: float) -> None:
        with span("vision", "CLIENT"):
            async for event in backend.client.analyze(self._picture, timeout_s):
                if isinstance(event, finding_pb2.ToolResult):
                    if event.tool in self._seen:
                        continue
                    self._seen.add(event.tool)
                events.put_nowait(event)
