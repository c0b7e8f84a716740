"""`coordinator-cli analyze`: files in, reports out."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import grpc

from coordinator.cli.clock import RunClock
from coordinator.cli.finished import FinishedBatch, find_finished
from coordinator.cli.journal import STATE_FOLDER
from coordinator.cli.output import OutputFolder
from coordinator.cli.progress import Display
from coordinator.cli.sources import Collection, Source
from coordinator.cli.terminal import Terminal
from coordinator.client.async_client import DEFAULT_CONCURRENCY, EMBEDDED_LLM_TIMEOUT_S, EMBEDDED_LLM_WAIT_S
from coordinator.client.batch import BatchRequest, BatchRun
from coordinator.client.connection import connect
from coordinator.client.stream import Event, Failed, Reported, RunOptions, StreamRun
from coordinator.client.target import Choice, choose, find_model, status_of
from coordinator.embedded import EmbeddedOptions, EmbeddedServices, embedded_services
from coordinator.render.document import error_document, report_document
from coordinator.render.labels import Labels
from coordinator.render.schema import Document
from maifs.coordinator.v1 import batch_pb2, coordinator_pb2, coordinator_pb2_grpc
from serving.errors import ExitCode, MaifsError, Reason
from serving.requests import current_request_id, new_request_id

Stub: TypeAlias = "coordinator_pb2_grpc.CoordinatorServiceAsyncStub"


@dataclass(frozen=True)
class AnalyzeSettings:
    """The options of the command."""

    address: str | None
    use_llm: bool
    llm_wait_s: float | None
    concurrency: int | None
    lang: str
    out: Path | None
    fresh: bool = False


@dataclass(frozen=True)
class Coordinator:
    """The coordinator of this run."""

    address: str
    services: EmbeddedServices | None


class Analysis:
    """One run of the command."""

    def __init__(self, settings: AnalyzeSettings, terminal: Terminal, display: Display) -> None:
        self._settings, self._terminal, self._display = settings, terminal, display
        self._labels = Labels(settings.lang)
        self.clock = RunClock()
        self.worst = ExitCode.OK
        self.done_count = 0
        self.known_count = 0
        """Pictures that were done before this run."""
        self._batch: BatchRun | None = None
        self._finished: FinishedBatch | None = None
        self._embedded = False

    async def run(self, found: Collection) -> ExitCode:
        """Analyses everything.

        Returns:
            OK, ITEMS_FAILED or, when the coordinator was lost on the way, UNREACHABLE.

        Raises:
            MaifsError: when nothing could be begun.
        """
        current_request_id.set(new_request_id())
        output = OutputFolder(self._settings.out, self._labels, found.sources) if self._settings.out else None
        try:
            choice = await choose(self._settings.address)
            self._finished = None if choice.address else await self._find_finished(found)
            if self._finished:
                await self._show_finished(self._finished, found, output)
            else:
                await self._analyze(found, output, choice)
        except BaseException:
            with contextlib.suppress(MaifsError):
                self._write_index(output)  # over what was done before the end
            raise
        self._write_index(output)
        return self.worst

    async def _find_finished(self, found: Collection) -> FinishedBatch | None:
        """An earlier run with services of its own, when it has left nothing to do."""
        out, pictures = self._settings.out, [source.picture for source in found.sources]
        if out is None or len(pictures) < 2 or self._settings.fresh:
            return None
        return await find_finished(out / STATE_FOLDER, batch_id(self._settings), pictures)

    async def _show_finished(self, finished: FinishedBatch, found: Collection, output: OutputFolder | None) -> None:
        self._terminal.note("Nothing is left to do: every picture has its end from an earlier run.")
        self._display.begin(len(found.sources))
        async with contextlib.aclosing(finished.events()) as events:
            async for event in events:
                await self._take(event, found.sources, output)

    async def _analyze(self, found: Collection, output: OutputFolder | None, choice: Choice) -> None:
        async with self._coordinator(choice) as coordinator, connect(coordinator.address) as channel:
            stub: Stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
            status = await status_of(stub, coordinator.address)
            options = self._run_options(status.limits, embedded=coordinator.services is not None)
            watching = asyncio.ensure_future(self._watch_model(coordinator.services))
            self._display.begin(len(found.sources))
            self.clock.mark("sending")
            try:
                async with contextlib.aclosing(self._events(channel, coordinator, found, options)) as events:
                    async for event in events:
                        await self._take(event, found.sources, output)
            finally:
                watching.cancel()
            self.clock.mark("last_report")
        if coordinator.services:
            self.clock.mark("stopped")

    async def _events(
        self, channel: grpc.aio.Channel, coordinator: Coordinator, found: Collection, options: RunOptions
    ) -> AsyncGenerator[Event, None]:
        """As a batch of the coordinator's journal, where there is one and a place for reports that can be found again;
        else as a stream.
        """
        pictures = [source.picture for source in found.sources]
        if self._settings.out and len(pictures) > 1:
            request = batch_request(self._settings, options)
            self._batch = BatchRun(channel, coordinator.address, pictures, request)
            try:
                async with contextlib.aclosing(self._batch.events()) as events:
                    async for event in events:
                        yield event
                return
            except MaifsError as error:
                if error.reason is not Reason.NO_JOURNAL:
                    raise
                self._batch = None
                self._terminal.note(f"{error.message} If this run is cut off, the next one begins anew.")
        stub: Stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        stream = StreamRun(stub, coordinator.address, pictures, options)
        async with contextlib.aclosing(stream.events()) as events:
            async for event in events:
                yield event

    def resume_hint(self) -> str:
        """What to do after this run was cut off."""
        if self._batch is None:
            return ""
        if self._embedded or not self._batch.submitted:
            return "Run the same command again to go on; what is done is kept."
        return (
            "The coordinator goes on with the others. The same command shows them; "
            f"`coordinator-cli batch cancel {self._batch.batch_id}` stops them."
        )

    def _write_index(self, output: OutputFolder | None) -> None:
        self._display.close()
        if output and (index := output.write_index()):
            self._terminal.note(f"Index: {index}")

    @contextlib.asynccontextmanager
    async def _coordinator(self, choice: Choice) -> AsyncIterator[Coordinator]:
        if choice.note:
            self._terminal.note(f"{choice.note} Starting services for this run.")
        if choice.address:
            yield Coordinator(choice.address, None)
            return
        model = find_model() if self._settings.use_llm else None
        options = EmbeddedOptions(llm_model=model, settings={"coordinator": self._state_settings()})
        self._embedded = True
        async with embedded_services(options, self._display.service) as services:
            self.clock.mark("services")
            yield Coordinator(services.address, services)

    def _state_settings(self) -> dict[str, str]:
        """The journal of services of our own lies with the reports: there the next run finds it."""
        if self._settings.out is None:
            return {}
        return {"state_folder": str(self._settings.out.absolute() / STATE_FOLDER), "batch_retention_s": "0"}

    async def _watch_model(self, services: EmbeddedServices | None) -> None:
        """Notes when the language model of our own is ready, or that it will not be; the pictures do not wait."""
        if services is None or not self._settings.use_llm:
            return
        error = await services.wait_llm(self._llm_wait_s(embedded=True))
        self.clock.mark("model")
        if error is not None:
            self._terminal.note(f"Going on without the language model: {error}")

    def _llm_wait_s(self, *, embedded: bool) -> float:
        default = EMBEDDED_LLM_WAIT_S if embedded else 0.0
        return default if self._settings.llm_wait_s is None else self._settings.llm_wait_s

    def _run_options(self, limits: coordinator_pb2.CoordinatorLimits, *, embedded: bool) -> RunOptions:
        allowed = max(1, limits.max_items_per_stream_count or DEFAULT_CONCURRENCY)
        wanted = self._settings.concurrency or DEFAULT_CONCURRENCY
        if self._settings.concurrency and wanted > allowed:
            self._terminal.note(f"--concurrency {wanted} is above the coordinator's limit; using {allowed}.")
        return RunOptions(
            concurrency=min(wanted, allowed),
            max_image_bytes=limits.max_image_bytes or 2**63 - 1,
            analyze=coordinator_pb2.AnalyzeOptions(
                skip_llm=not self._settings.use_llm,
                skip_cache=self._settings.fresh,
                llm_timeout_seconds=EMBEDDED_LLM_TIMEOUT_S if embedded else 0.0,
                llm_wait_seconds=self._llm_wait_s(embedded=embedded),
                language=self._settings.lang,
            ),
        )

    async def _take(self, event: Event, sources: Sequence[Source], output: OutputFolder | None) -> None:
        self.clock.event(event)
        self._display.event(event)
        if isinstance(event, Reported | Failed):
            document = await asyncio.to_thread(self._document, event, sources[event.index], output)
            self.done_count += 1
            known = self._finished or self._batch
            if known and event.index in known.known:
                self.known_count += 1
                self._terminal.show_known(document)
            else:
                self._terminal.show(document)

    def _document(self, event: Reported | Failed, source: Source, output: OutputFolder | None) -> Document:
        error = event.error if isinstance(event, Failed) else None
        try:
            if isinstance(event, Reported):
                if output:
                    return output.write_report(event.index, source, event.report)
                return report_document(event.report, source.display)
        except MaifsError as fault:
            error = fault
        assert error is not None
        self._note_exit(error)
        if output:
            with contextlib.suppress(MaifsError):  # the error itself is shown; a full disk must not hide it
                return output.write_error(event.index, source, error)
        return error_document(error, source.display)

    def _note_exit(self, error: MaifsError) -> None:
        lost = {Reason.BACKEND_UNAVAILABLE, Reason.SHUTTING_DOWN}
        code = ExitCode.UNREACHABLE if error.reason in lost else ExitCode.ITEMS_FAILED
        self.worst = max(self.worst, code)


def batch_id(settings: AnalyzeSettings) -> str:
    """The batch of a run: the same output folder and the same kind of reports are the same batch."""
    assert settings.out
    identity = f"{settings.out.absolute()}\0{settings.lang}\0{not settings.use_llm}"
    return f"analyze-{hashlib.sha256(identity.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"


def batch_request(settings: AnalyzeSettings, options: RunOptions) -> BatchRequest:
    """What a run asks of the journal."""
    assert settings.out
    return BatchRequest(
        batch_id=batch_id(settings),
        title=f"analyze --out {str(settings.out.absolute()).encode('utf-8', 'replace').decode()}",
        options=batch_pb2.BatchOptions(analyze=options.analyze, max_running_items_count=settings.concurrency or 0),
        max_image_bytes=options.max_image_bytes,
        fresh=settings.fresh,
    )
