"""`coordinator-cli status`: backends, devices, queue and limits."""

from __future__ import annotations

import os

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from coordinator.client.connection import connect
from coordinator.client.target import ADDRESS_VARIABLE, DEFAULT_ADDRESS, status_of
from coordinator.render.phrases import file_size, printable
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.gpu.report import STATES

_STATES = {
    coordinator_pb2.BACKEND_STATE_SERVING: ("serving", "green"),
    coordinator_pb2.BACKEND_STATE_NOT_SERVING: ("not_serving", "yellow"),
    coordinator_pb2.BACKEND_STATE_UNREACHABLE: ("unreachable", "red"),
    coordinator_pb2.BACKEND_STATE_DISABLED: ("disabled", "dim"),
    coordinator_pb2.BACKEND_STATE_SUSPENDED: ("suspended", "red"),
}


def address_of(address: str | None) -> str:
    """The coordinator to ask: the one given, else MAIFS_ADDRESS, else this host's."""
    return address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS


async def fetch(address: str) -> coordinator_pb2.GetStatusResponse:
    """Asks once, without patience for a service that is not there.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE.
    """
    async with connect(address) as channel:
        return await status_of(coordinator_pb2_grpc.CoordinatorServiceStub(channel), address, patience_s=3.0)


def to_document(address: str, status: coordinator_pb2.GetStatusResponse) -> dict[str, object]:
    """JSON form; docs/cli.md lists the fields."""
    return {
        "address": address,
        "service_version": status.service_version,
        "uptime_s": status.uptime_seconds,
        "open_items_count": status.open_items_count,
        "waiting_items_count": status.waiting_items_count,
        "queued_batch_items_count": status.queued_batch_items_count,
        "held_bytes": status.held_bytes,
        "completed_items_count": status.completed_items_count,
        "failed_items_count": status.failed_items_count,
        "limits": {
            "max_image_bytes": status.limits.max_image_bytes,
            "max_items_per_stream_count": status.limits.max_items_per_stream_count,
            "max_held_bytes": status.limits.max_held_bytes,
        },
        "cache": {
            "reports_count": status.cache.reports_count,
            "held_bytes": status.cache.held_bytes,
            "max_held_bytes": status.cache.max_held_bytes,
            "hits_count": status.cache.hits_count,
        },
        "backends": [
            {
                "name": backend.name,
                "address": backend.address,
                "state": _STATES.get(backend.state, ("unknown", ""))[0],
                "description": backend.description,
                "reason": backend.reason,
                "devices": list(backend.devices),
                "gpu_pin": _pin(backend),
                "gpu_pin_detail": backend.gpu_pin.detail,
                "open_calls_count": backend.open_calls_count,
                "max_open_calls_count": backend.max_open_calls_count,
            }
            for backend in status.backends
        ],
    }


def _pin(backend: coordinator_pb2.BackendStatus) -> str:
    state = STATES.get(backend.gpu_pin.state)
    return state.value if state else ""


def backends(address: str, status: coordinator_pb2.GetStatusResponse) -> RenderableType:
    """The coordinator in a line, and a table of its backends."""
    head = Text(f"Coordinator {status.service_version} at {address}, up {_duration(status.uptime_seconds)}")
    table = Table("Backend", "State", "Calls", "Address", "Runs", "Devices", "GPU pin", box=None, padding=(0, 2, 0, 0))
    for backend in status.backends:
        word, style = _STATES.get(backend.state, ("unknown", ""))
        runs = backend.reason or backend.description
        calls = f"{backend.open_calls_count}/{backend.max_open_calls_count}" if backend.max_open_calls_count else ""
        cells = (calls, backend.address, runs, ", ".join(backend.devices), _pin(backend))
        table.add_row(backend.name, Text(word, style=style), *(Text(printable(cell)) for cell in cells))
    return Group(head, table)


def show(address: str, status: coordinator_pb2.GetStatusResponse, console: Console) -> None:
    """Prints it for people."""
    console.print(backends(address, status))
    limits = status.limits
    console.print(
        f"Open items {status.open_items_count}, {status.waiting_items_count} of them waiting "
        f"(at most {limits.max_items_per_stream_count} per stream), "
        f"holding {file_size(status.held_bytes)} of {file_size(limits.max_held_bytes)}; "
        f"largest file {file_size(limits.max_image_bytes)}"
    )
    if status.queued_batch_items_count:
        console.print(f"Pictures of batches that wait on disk: {status.queued_batch_items_count}")
    console.print(f"Since the start: {status.completed_items_count} reports, {status.failed_items_count} failed")
    cache = status.cache
    if cache.max_held_bytes:
        console.print(
            f"Reports kept for files that come again: {cache.reports_count} ({file_size(cache.held_bytes)} of "
            f"{file_size(cache.max_held_bytes)}), used {cache.hits_count} times"
        )


def _duration(uptime_s: float) -> str:
    hours, rest = divmod(int(uptime_s), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
