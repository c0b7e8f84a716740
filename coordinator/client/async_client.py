"""The client for asyncio."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from coordinator.client.connection import security as given_or_environment
from coordinator.client.pictures import Picture, Sendable, as_picture
from coordinator.client.report import Outcome, Report
from coordinator.client.stream import Event, Failed, Reported, RunOptions, StreamRun
from coordinator.client.target import choose, find_model, status_of
from coordinator.embedded import EmbeddedOptions, EmbeddedServices, ServiceName, StateListener, embedded_services
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from serving.channel_security import ChannelSecurity
from serving.errors import MaifsError

DEFAULT_CONCURRENCY = 8
"""Pictures of one batch under way at a time, within the coordinator's limit."""
EMBEDDED_LLM_WAIT_S = 300.0
"""Seconds that a language model of our own has to load before pictures are explained without it."""
EMBEDDED_LLM_TIMEOUT_S = 180.0
"""Seconds that an explanation may take with a language model of our own, which may have a CPU for all its work."""

Input: TypeAlias = "Sendable | tuple[str, Sendable]"
"""A picture of a batch, or its name and the picture."""


@dataclass(frozen=True)
class Options:
    """How to analyse."""

    use_llm: bool = True
    """False: rules write the explanation. Findings and verdict are the same."""
    language: str = ""
    """Of the explanation, "en" or "ko"; empty: the coordinator's setting."""
    llm_wait_s: float | None = None
    """Most seconds that an explanation waits for a language model that is still loading; None: 300 with services of
    the client's own, 0 with running ones."""
    llm_timeout_s: float | None = None
    """Most seconds that an explanation may take; None: 180 with services of the client's own, else the coordinator's
    setting."""
    skip_cache: bool = False
    """Analyse again even when the coordinator still has a report on the same file."""


class AsyncClient:
    """A connection to a coordinator, or to services of the client's own; to be entered with `async with`."""

    def __init__(
        self,
        address: str | None = None,
        *,
        options: Options | None = None,
        on_service: StateListener = lambda name, state, elapsed_s: None,
        service_settings: Mapping[ServiceName, Mapping[str, str]] | None = None,
        security: ChannelSecurity | None = None,
    ) -> None:
        """Does nothing yet.

        Args:
            address: "unix:/path/to.sock" or "host:port". None: $MAIFS_ADDRESS, else the coordinator of this host, else
                the services are started as child processes for as long as the client is open.
            options: how to analyse.
            on_service: hears of the services that the client starts.
            service_settings: of those services, as for --set.
            security: authorities, certificate, token; what MAIFS_CA_FILE, MAIFS_TOKEN_FILE and their like say when not
                given (docs/client.md).
        """
        self._service_settings = service_settings or {}
        self._security = security
        self._wanted_address, self.options, self._on_service = address, options or Options(), on_service
        self._exits = contextlib.AsyncExitStack()
        self._services: EmbeddedServices | None = None
        self._stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub | None = None
        self._limits = coordinator_pb2.CoordinatorLimits()
        self.address = ""
        """The coordinator's, once entered."""

    async def __aenter__(self) -> AsyncClient:
        """Connects.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE when nothing answers; MODEL_UNUSABLE when services are to be started and
                no language model was prepared (Options.use_llm = False does without).
        """
        async with self._exits:
            self.address = (await choose(self._wanted_address)).address or await self._start_services()
            channel = await self._exits.enter_async_context(
                open_channel(self.address, self._security or given_or_environment())
            )
            self._stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            self._limits = (await status_of(self._stub, self.address)).limits
            self._exits = self._exits.pop_all()  # nothing failed: leave open what was opened
        return self

    @property
    def max_image_bytes(self) -> int:
        """Largest file that the coordinator takes."""
        return self._limits.max_image_bytes or 2**63 - 1

    async def __aexit__(self, *_: object) -> None:
        await self._exits.aclose()

    async def _start_services(self) -> str:
        model = find_model() if self.options.use_llm else None
        options = EmbeddedOptions(llm_model=model, settings=self._service_settings)
        services = embedded_services(options, self._on_service)
        self._services = await self._exits.enter_async_context(services)
        return self._services.address

    async def analyze(self, picture: Sendable | Picture, *, name: str = "", options: Options | None = None) -> Report:
        """The report on one picture.

        Args:
            picture: a path, the bytes of an image file, or an array (sent as PNG, see docs/client.md).
            name: of bytes and arrays, for the report.
            options: in place of the client's.

        Raises:
            MaifsError: the picture cannot be read or analysed, or the coordinator was lost; `reason` says why,
                `advice` what to do, `reason.exit_code` is what the command line would exit with.
        """
        sent = as_picture(picture, name)
        async with contextlib.aclosing(self._run([sent], options, 1).events()) as events:
            async for event in events:
                if isinstance(event, Reported):
                    return Report(event.report, sent)
                if isinstance(event, Failed):
                    raise event.error
        raise AssertionError("a stream that ends without an outcome")

    async def events(
        self, picture: Sendable | Picture, *, name: str = "", options: Options | None = None
    ) -> AsyncGenerator[Event, None]:
        """Everything that happens to one picture: Sent, ToolEnded as each tool ends, VerdictKnown, then Reported or
        Failed.
        """
        run = self._run([as_picture(picture, name)], options, 1)
        async with contextlib.aclosing(run.events()) as events:
            async for event in events:
                yield event

    async def batch(
        self,
        pictures: Iterable[Input] | AsyncIterable[Input],
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
        options: Options | None = None,
    ) -> AsyncGenerator[Outcome, None]:
        """What becomes of many pictures, in the order in which they are done.

        No more than `concurrency` pictures are under way; the input is asked for the next one when there is room, and
        the coordinator waits for a consumer that is slow. Leaving the loop cancels what is under way.

        Args:
            pictures: as for `analyze`, or pairs of a name and a picture; may be endless.
            concurrency: lowered to what the coordinator allows for a stream.
            options: in place of the client's.

        Raises:
            MaifsError: INVALID_REQUEST for an array that is no picture; the coordinator was lost (pictures that were
                under way have had their outcome by then).
        """
        sent: dict[int, Picture] = {}
        run = self._run(_noting(pictures, sent), options, concurrency)
        async with contextlib.aclosing(run.events()) as events:
            async for event in events:
                if isinstance(event, Reported):
                    picture = sent.pop(event.index)
                    yield Outcome(event.index, picture.name, report=Report(event.report, picture))
                elif isinstance(event, Failed):
                    yield Outcome(event.index, sent.pop(event.index).name, error=event.error)

    async def status(self) -> coordinator_pb2.GetStatusResponse:
        """Backends, counters and limits of the coordinator.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE.
        """
        return await status_of(self._connected(), self.address)

    async def wait_llm(self, timeout_s: float = EMBEDDED_LLM_WAIT_S) -> MaifsError | None:
        """Waits for a language model of the client's own; why there is none, or None when it serves or is not ours."""
        return await self._services.wait_llm(timeout_s) if self._services else None

    def _connected(self) -> coordinator_pb2_grpc.CoordinatorServiceAsyncStub:
        if self._stub is None:
            raise RuntimeError("the client is not open: use it in a `with` block")
        return self._stub

    def _run(
        self, pictures: list[Picture] | AsyncIterator[Picture], options: Options | None, concurrency: int
    ) -> StreamRun:
        allowed = max(1, self._limits.max_items_per_stream_count or concurrency)
        run_options = RunOptions(
            concurrency=max(1, min(concurrency, allowed)),
            max_image_bytes=self.max_image_bytes,
            analyze=self._analyze_options(options or self.options),
        )
        return StreamRun(self._connected(), self.address, pictures, run_options)

    def _analyze_options(self, options: Options) -> coordinator_pb2.AnalyzeOptions:
        own = self._services is not None
        wait_s, timeout_s = (EMBEDDED_LLM_WAIT_S, EMBEDDED_LLM_TIMEOUT_S) if own else (0.0, 0.0)
        return coordinator_pb2.AnalyzeOptions(
            skip_llm=not options.use_llm,
            llm_wait_seconds=wait_s if options.llm_wait_s is None else options.llm_wait_s,
            llm_timeout_seconds=timeout_s if options.llm_timeout_s is None else options.llm_timeout_s,
            language=options.language,
            skip_cache=options.skip_cache,
        )


async def _noting(
    pictures: Iterable[Input] | AsyncIterable[Input], sent: dict[int, Picture]
) -> AsyncGenerator[Picture, None]:
    """The input as pictures, each noted under its place."""
    index = 0
    async for given in _each(pictures):
        name, picture = given if isinstance(given, tuple) else ("", given)
        sent[index] = as_picture(picture, name)
        yield sent[index]
        index += 1


async def _each(pictures: Iterable[Input] | AsyncIterable[Input]) -> AsyncIterator[Input]:
    if isinstance(pictures, AsyncIterable):
        async for given in pictures:
            yield given
    else:
        for given in pictures:
            yield given
