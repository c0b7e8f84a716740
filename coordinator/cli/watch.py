"""`coordinator-cli watch`: services, queue and GPUs as they are now, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncIterator
from dataclasses import dataclass

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from coordinator.cli import status as view
from coordinator.client.connection import connect
from coordinator.client.target import status_of
from coordinator.render.document import to_json
from coordinator.render.phrases import file_size, printable
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.gpu.inventory import Gpu, take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError

_BAR_WIDTH = 30


@dataclass(frozen=True, eq=False)
class Sample:
    """One look. Exactly one of `status` and `error` is set."""

    time: datetime.datetime
    status: coordinator_pb2.GetStatusResponse | None
    error: MaifsError | None
    gpus: tuple[Gpu, ...]
    """Of this machine; empty without a driver."""
    per_second: float | None
    """Reports since the last look; None at the first one."""


async def samples(address: str, interval_s: float) -> AsyncIterator[Sample]:
    """Looks for ever; a coordinator that goes and comes back is shown as such.

    Raises:
        MaifsError: when the first look finds no coordinator.
    """
    clock = asyncio.get_running_loop().time
    before: tuple[float, int] | None = None
    first = True
    async with connect(address) as channel:
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        while True:
            began = clock()
            gpus, looked = await asyncio.gather(asyncio.to_thread(_gpus), _look(stub, address, patient=first))
            if isinstance(looked, MaifsError):
                if first:
                    raise looked
                yield Sample(_now(), None, looked, gpus, None)
            else:
                yield Sample(_now(), looked, None, gpus, _rate(before, began, looked))
                before = (began, looked.completed_items_count)
            first = False
            await asyncio.sleep(max(0.0, interval_s - (clock() - began)))


async def _look(
    stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub, address: str, *, patient: bool
) -> coordinator_pb2.GetStatusResponse | MaifsError:
    try:
        return await status_of(stub, address, patience_s=3.0 if patient else 1.0)
    except MaifsError as error:
        return error


def _rate(before: tuple[float, int] | None, now: float, status: coordinator_pb2.GetStatusResponse) -> float | None:
    if before is None or status.completed_items_count < before[1]:  # the first look, or another coordinator
        return None
    return (status.completed_items_count - before[1]) / max(now - before[0], 1e-3)


def _gpus() -> tuple[Gpu, ...]:
    try:
        return take_inventory().gpus
    except (NvmlUnavailableError, NvmlCallError):
        return ()


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def to_document(address: str, sample: Sample) -> dict[str, object]:
    """JSON form of a look; docs/cli.md lists the fields."""
    document: dict[str, object] = {"time": sample.time.isoformat(timespec="milliseconds"), "address": address}
    if sample.error is not None:
        error = sample.error
        document["error"] = {"reason": error.reason.name, "message": error.message, "advice": error.advice}
    else:
        assert sample.status is not None
        document |= view.to_document(address, sample.status)
        document["reports_per_second"] = None if sample.per_second is None else round(sample.per_second, 3)
    document["gpus"] = [
        {
            "index": gpu.index,
            "uuid": gpu.uuid,
            "name": gpu.name,
            "used_bytes": gpu.used_bytes,
            "total_bytes": gpu.total_bytes,
            "processes": [process.pid for process in gpu.processes],
        }
        for gpu in sample.gpus
    ]
    return document


def screen(address: str, sample: Sample) -> RenderableType:
    """The view for people."""
    parts: list[RenderableType] = []
    if sample.error is not None:
        parts.append(Text(f"{sample.error.reason.name}: {sample.error.message}", style="bold red"))
        parts.append(Text("Watching on; the view comes back with the coordinator.", style="dim"))
    else:
        assert sample.status is not None
        parts.append(view.backends(address, sample.status))
        parts += [Text(""), _queue(sample.status, sample.per_second)]
    if sample.gpus:
        parts += [Text(""), _gpu_table(sample.gpus)]
    parts.append(Text(f"\n{sample.time:%H:%M:%S} UTC. Ctrl-C ends.", style="dim"))
    return Group(*parts)


def _bar(part: float, whole: float) -> ProgressBar:
    return ProgressBar(total=max(whole, 1e-9), completed=min(part, whole), width=_BAR_WIDTH)


def _queue(status: coordinator_pb2.GetStatusResponse, per_second: float | None) -> Table:
    table = Table.grid(padding=(0, 2))
    limits, cache = status.limits, status.cache
    table.add_row(
        "Pictures held", _bar(status.held_bytes, limits.max_held_bytes),
        f"{status.open_items_count} open, {status.waiting_items_count} waiting, {file_size(status.held_bytes)} of "
        f"{file_size(limits.max_held_bytes)}",
    )  # fmt: skip
    if status.queued_batch_items_count:
        table.add_row("Batches", "", f"{status.queued_batch_items_count} pictures wait on disk")
    for backend in status.backends:
        if backend.max_open_calls_count:
            calls = f"{backend.open_calls_count} of {backend.max_open_calls_count} calls"
            table.add_row(
                f"At {backend.name}", _bar(backend.open_calls_count, backend.max_open_calls_count),
                Text(f"{calls}, {printable(backend.address)}"),
            )  # fmt: skip
    if cache.max_held_bytes:
        table.add_row(
            "Report cache", _bar(cache.held_bytes, cache.max_held_bytes),
            f"{cache.reports_count} reports, {file_size(cache.held_bytes)}, {cache.hits_count} hits",
        )  # fmt: skip
    rate = "" if per_second is None else f"{per_second:.2f} a second now; "
    table.add_row("Reports", "", f"{rate}{status.completed_items_count} made, {status.failed_items_count} failed")
    return table


def _gpu_table(gpus: tuple[Gpu, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for gpu in gpus:
        used = f"{file_size(gpu.used_bytes)} of {file_size(gpu.total_bytes)}"
        table.add_row(f"GPU {gpu.index}", _bar(gpu.used_bytes, gpu.total_bytes), Text(f"{used}, {gpu.name}"))
    return table


async def run(address: str | None, interval_s: float, *, as_json: bool, count: int | None) -> None:
    """Shows looks until Ctrl-C, or `count` of them.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE when there is no coordinator at the beginning.
    """
    where = view.address_of(address)
    if not where or ":" not in where:
        raise MaifsError(
            Reason.INVALID_CONFIG, f"{where!r} is not an address.", "Give unix:/path/to.sock or host:port."
        )
    with contextlib.ExitStack() as stack:
        live = None if as_json else stack.enter_context(Live(console=Console(highlight=False), auto_refresh=False))
        number = 0
        async for sample in samples(where, interval_s):
            if live is None:
                typer.echo(to_json(to_document(where, sample)))
            else:
                live.update(screen(where, sample), refresh=True)
            number += 1
            if number == count:
                return
