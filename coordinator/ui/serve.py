"""The page as a server on loopback, for as long as somebody wants it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from coordinator.client import AsyncClient, Options
from coordinator.client.connection import connect
from coordinator.embedded import StateListener
from coordinator.render.labels import Labels
from coordinator.ui.access import Access
from coordinator.ui.app import Ui, create_app
from coordinator.ui.batches import Batches
from coordinator.ui.pictures import Pictures
from serving.errors import MaifsError, Reason

LOOPBACK = "127.0.0.1"
_GRACE_S = 5


@dataclass(frozen=True)
class UiSettings:
    """How to serve."""

    address: str | None
    """Coordinator; None: as AsyncClient."""
    port: int
    """0: any that is free."""
    lang: str
    options: Options
    state_folder: Path | None = None
    """Journal of services of our own; None: they keep none."""


async def serve(settings: UiSettings, on_url: Callable[[str], None], on_service: StateListener) -> None:
    """Serves until it is cancelled.

    Args:
        settings: how.
        on_url: called with the address to open, once it answers.
        on_service: hears of services that are started.

    Raises:
        MaifsError: ADDRESS_IN_USE, or what AsyncClient raises.
    """
    with (
        _listening(settings.port) as listener,
        tempfile.TemporaryDirectory(prefix="maifs-ui-") as folder,
    ):
        access = Access(listener.getsockname()[1])
        async with (
            _client(settings, on_service) as client,
            connect(client.address) as channel,
        ):
            pictures = Pictures(client, Path(folder))
            ui = Ui(pictures, Batches(channel, client.address), Labels(settings.lang), client.max_image_bytes)
            server = _Server(create_app(ui, access), lambda: on_url(access.url), ui.closing.set)
            serving = asyncio.ensure_future(server.serve(sockets=[listener]))
            try:
                await asyncio.shield(serving)
            finally:
                server.should_exit = True
                await asyncio.wait({serving})
                await pictures.close()


def _client(settings: UiSettings, on_service: StateListener) -> AsyncClient:
    folder = settings.state_folder
    journal = {"state_folder": str(folder.absolute()), "batch_retention_s": "0"} if folder else {}
    return AsyncClient(
        settings.address, options=settings.options, on_service=on_service, service_settings={"coordinator": journal}
    )


class _Server(uvicorn.Server):
    def __init__(self, app: object, on_started: Callable[[], None], on_stopping: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,  # type: ignore[arg-type]
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                server_header=False,
                timeout_graceful_shutdown=_GRACE_S,
            )
        )
        self._on_started, self._on_stopping = on_started, on_stopping

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals to the command: uvicorn would raise them again, and end us before our services have ended."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._on_stopping()
        await super().shutdown(sockets)


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    try:
        listener = socket.create_server((LOOPBACK, port))
    except OSError as error:
        raise MaifsError(
            Reason.ADDRESS_IN_USE,
            f"{LOOPBACK}:{port} cannot be listened on: {error.strerror}.",
            "Choose another --port, or leave it out for any that is free.",
        ) from error
    with listener:
        yield listener
