"""A coordinator with a journal and simulated tools beside a command that is run in this process."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from coordinator.cli.__main__ import main
from coordinator.config import CoordinatorConfig
from serving.server import ServerConfig
from tests.coordinator.conftest import World


class WorldThread:
    """Coordinator and simulated vision on an event loop of their own, beside that of the command under test."""

    def __init__(self, folder: Path, state: Path | None = None) -> None:
        config = CoordinatorConfig(
            server=ServerConfig(f"unix:{folder}/c.sock"),
            vision_address=(f"unix:{folder}/v.sock",),
            llm_address=(),
            state_folder=state or folder / "state",
            cache_bytes=0,
        )
        self.address = config.server.address
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.world = World(folder, config)
        self.wait(self.world.start(llm=False))

    def wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def event(self) -> asyncio.Event:
        return asyncio.Event()

    def set(self, event: asyncio.Event) -> None:
        self._loop.call_soon_threadsafe(event.set)

    def close(self) -> None:
        self.wait(self.world.close())
        self._loop.call_soon_threadsafe(self._loop.stop)


def write_picture(path: Path, seed: int) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (16, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def analyze(server: WorldThread, *arguments: str | Path) -> int:
    return main(["analyze", *map(str, arguments), "--no-llm", "--address", server.address])


def command(server: WorldThread, *arguments: str | Path) -> int:
    return main([*map(str, arguments), "--address", server.address])


def analysed(server: WorldThread) -> int:
    return len(server.world.vision.items)
