"""Vision and coordinator as real processes, the coordinator on loopback TCP."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.camera import photo, to_jpeg
from tests.processes import ServiceProcess, socket_folder


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture(name="coordinator", scope="module")
def _coordinator() -> Iterator[ServiceProcess]:
    with socket_folder() as folder:
        vision_address = f"unix:{folder}/v.sock"
        settings = ("--set", f"vision_address={vision_address}", "--set", "llm_address=")
        with (
            ServiceProcess("vision_service", vision_address, log=folder / "v.log") as vision,
            ServiceProcess(
                "coordinator", f"127.0.0.1:{free_port()}", "--insecure", *settings, log=folder / "c.log"
            ) as coordinator,
        ):
            vision.wait_serving()
            yield coordinator.wait_serving()


@pytest.fixture(name="picture", scope="session")
def _picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small camera-like photograph."""
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    path.write_bytes(to_jpeg(photo(480, 640, seed=11), 92))
    return path
