"""A coordinator and a vision service as processes that show their metrics and logs, with some language model."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.processes import ServiceProcess, socket_folder
from tests.scraping import Scrape, scrape, wait_value


@dataclass(frozen=True)
class Observed:
    """Running services."""

    folder: Path
    coordinator: ServiceProcess
    vision: ServiceProcess

    def metrics(self, service: str) -> Path:
        """The socket on which a service shows them."""
        return self.folder / f"{service}-metrics.sock"

    def scrape(self, service: str) -> Scrape:
        """A service's metrics now."""
        return scrape(self.metrics(service))

    def log(self, service: str) -> list[dict[str, Any]]:
        """A service's log so far."""
        lines = (self.folder / f"{service}.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


@contextlib.contextmanager
def observed(llm_address: str = "", *settings: str) -> Iterator[Observed]:
    """Starts them.

    Args:
        llm_address: the language model; empty: a simulated one.
        settings: NAME=VALUE for both.
    """
    with socket_folder() as folder, contextlib.ExitStack() as stack:

        def start(module: str, name: str, *arguments: str) -> ServiceProcess:
            process = ServiceProcess(module, f"unix:{folder}/{name}.sock", *arguments, log=folder / f"{name}.log")
            return stack.enter_context(process)

        def options(name: str, *more: str) -> list[str]:
            shown = f"server.metrics.address=unix:{folder}/{name}-metrics.sock"
            return [text for setting in (shown, *settings, *more) for text in ("--set", setting)]

        vision = start("vision_service", "vision", *options("vision", "workers=2")).wait_serving(120)
        if not llm_address:
            llm_address = start("tests.coordinator.simulated_process", "llm", "llm").wait_serving().address
        backends = (f"vision_address={vision.address}", f"llm_address={llm_address}")
        own = (*backends, f"state_folder={folder}/state", "second_look=false", "picture_reading=false")
        coordinator = start("coordinator", "coordinator", *options("coordinator", *own)).wait_serving(120)
        running = Observed(folder, coordinator, vision)
        wait_value(running.metrics("coordinator"), 2, "maifs_coordinator_backend_serving")
        yield running


def picture(seed: int, side_px: int = 128) -> bytes:
    """A small JPEG, different for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((side_px, side_px), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
