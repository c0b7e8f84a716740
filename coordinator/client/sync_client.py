"""The client for programs without asyncio: an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterable, Iterator
from typing import Any, TypeVar

from coordinator.client.async_client import DEFAULT_CONCURRENCY, AsyncClient, Input, Options
from coordinator.client.pictures import Picture, Sendable
from coordinator.client.report import Outcome, Report
from maifs.coordinator.v1 import coordinator_pb2
from serving.channel_security import ChannelSecurity

T = TypeVar("T")


class Client:
    """A connection to a coordinator, or to services of the client's own; to be entered with `with`.

    May be used by several threads at a time.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        options: Options | None = None,
        security: ChannelSecurity | None = None,
    ) -> None:
        """See AsyncClient."""
        self._client = AsyncClient(address, options=options, security=security)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """The coordinator's, once entered."""
        return self._client.address

    def __enter__(self) -> Client:
        """Connects; see AsyncClient.__aenter__ for errors."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="maifs-client", daemon=True)
        self._thread.start()
        try:
            self._wait(self._client.__aenter__())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._wait(_stop(asyncio.all_tasks(self._running())))  # batches that were left in the middle
            self._wait(self._client.__aexit__())
        finally:
            self._end_loop()

    def analyze(self, picture: Sendable | Picture, *, name: str = "", options: Options | None = None) -> Report:
        """The report on one picture; see AsyncClient.analyze."""
        return self._wait(self._client.analyze(picture, name=name, options=options))

    def batch(
        self, pictures: Iterable[Input], *, concurrency: int = DEFAULT_CONCURRENCY, options: Options | None = None
    ) -> Generator[Outcome, None, None]:
        """What becomes of many pictures, in the order in which they are done; see AsyncClient.batch.

        The input is read in the caller's thread, while the caller waits for the next outcome.
        """
        handover = _Handover(pictures)
        outcomes = self._client.batch(handover.asked(), concurrency=concurrency, options=options)
        task = self._wait(handover.start(outcomes))
        try:
            yield from handover.outcomes()
            self._wait(_result(task))
        finally:
            if self._loop is not None:
                self._wait(_stop({task}))

    def status(self) -> coordinator_pb2.GetStatusResponse:
        """Backends, counters and limits of the coordinator; see AsyncClient.status."""
        return self._wait(self._client.status())

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("the client is not open: use it in a `with` block")
        return self._loop

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._running())
        except RuntimeError:
            work.close()
            raise
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C while waiting: the picture is not wanted any more
            raise

    def _end_loop(self) -> None:
        loop, thread, self._loop, self._thread = self._running(), self._thread, None, None
        loop.call_soon_threadsafe(loop.stop)
        if thread:
            thread.join()
        loop.close()


async def _result(task: asyncio.Task[None]) -> None:
    await task


async def _stop(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class _Asked:
    """The batch has room for one more picture."""


class _Handover:
    """Between the caller's thread, which owns the input and takes the outcomes, and the event loop's."""

    def __init__(self, pictures: Iterable[Input]) -> None:
        self._pictures = iter(pictures)
        self._to_caller: queue.SimpleQueue[Outcome | _Asked | None] = queue.SimpleQueue()
        self._answers: asyncio.Queue[Input | None] = asyncio.Queue()
        self._taken = asyncio.Semaphore(1)
        self._loop: asyncio.AbstractEventLoop | None = None

    async def asked(self) -> AsyncGenerator[Input, None]:
        """In the event loop: the input, one picture for each question."""
        while True:
            self._to_caller.put(_Asked())
            picture = await self._answers.get()
            if picture is None:
                return
            yield picture

    async def start(self, outcomes: AsyncGenerator[Outcome, None]) -> asyncio.Task[None]:
        """In the event loop: begins to hand outcomes over, each after the caller has taken the one before."""
        self._loop = asyncio.get_running_loop()
        return asyncio.ensure_future(self._collect(outcomes))

    async def _collect(self, outcomes: AsyncGenerator[Outcome, None]) -> None:
        try:
            async with contextlib.aclosing(outcomes):
                async for outcome in outcomes:
                    await self._taken.acquire()
                    self._to_caller.put(outcome)
        finally:
            self._to_caller.put(None)

    def outcomes(self) -> Iterator[Outcome]:
        """In the caller's thread: answers questions until an outcome comes."""
        while (message := self._to_caller.get()) is not None:
            assert self._loop is not None
            if isinstance(message, _Asked):
                self._loop.call_soon_threadsafe(self._answers.put_nowait, next(self._pictures, None))
            else:
                self._loop.call_soon_threadsafe(self._taken.release)
                yield message
