"""The memory that pictures may take: an estimate for each, a budget over all, and one error when it is not enough."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import torch

from serving.errors import MaifsError, Reason

T = TypeVar("T")

FIXED_BYTES = 192 * 1024 * 1024
BYTES_PER_PIXEL = 40
"""Upper bound of what one picture takes with all tools at once, fitted to `python -m benchmarks.vision_memory`
(docs/performance.md). The buffers of the strips make the fixed part. Counted are all arrays, in host memory and on the
device alike: on a GPU the tensors, the smaller part of them, take less."""

RETRY_AFTER_S = 5.0
"""By then most pictures are done and have given their memory back."""


def estimate_bytes(width_px: int, height_px: int) -> int:
    """What a picture of this size takes at its peak."""
    return FIXED_BYTES + BYTES_PER_PIXEL * width_px * height_px


class MemoryBudget:
    """Shares of a fixed number of bytes, given out in the order of asking. For use on one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.held_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def max_pixels(self) -> int:
        """The largest picture that fits when it is alone."""
        return max(0, self.limit_bytes - FIXED_BYTES) // BYTES_PER_PIXEL

    async def acquire(self, size_bytes: int) -> None:
        """Waits for a share.

        Raises:
            MaifsError: EXCEEDS_MEMORY_BUDGET when it is larger than the whole, so that no waiting helps.
        """
        if size_bytes > self.limit_bytes:
            raise MaifsError(
                Reason.EXCEEDS_MEMORY_BUDGET,
                f"The picture needs about {_mib(size_bytes)}; the service's memory budget is {_mib(self.limit_bytes)}, "
                f"enough for {self.max_pixels / 1e6:.0f} megapixels.",
                "Raise memory_budget_mib in the service's configuration, or send a crop.",
            )
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((size_bytes, turn))
        self._serve()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(size_bytes)
            else:
                self._waiting = deque(entry for entry in self._waiting if entry[1] is not turn)
                self._serve()
            raise

    def release(self, size_bytes: int) -> None:
        """Gives a share back."""
        self.held_bytes -= size_bytes
        self._serve()

    def _serve(self) -> None:
        while self._waiting and self.held_bytes + self._waiting[0][0] <= self.limit_bytes:
            size_bytes, turn = self._waiting.popleft()
            if not turn.cancelled():
                self.held_bytes += size_bytes
                turn.set_result(None)


def limit_device(device: torch.device, limit_bytes: int) -> None:
    """Makes torch refuse to take more of a GPU than this; nothing on a CPU. CUDA's own context comes on top."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, limit_bytes / total), device)


def guarded(work: Callable[[], T], device: torch.device) -> T:
    """Runs work that may run out of memory.

    Raises:
        MaifsError: OUT_OF_MEMORY, with a time to wait, in place of torch's and Python's own errors.
    """
    try:
        return work()
    except (torch.OutOfMemoryError, MemoryError) as error:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        detail = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise MaifsError(
            Reason.OUT_OF_MEMORY,
            f"The vision service ran out of memory on {device} with this picture: {detail[:300]}",
            "Send it again after the delay; if it fails alone too, raise memory_budget_mib or free the device "
            "(coordinator-cli gpu check).",
            retry_after_s=RETRY_AFTER_S,
        ) from error


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:,.0f} MiB"
