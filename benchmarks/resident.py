"""Resident memory of this process and its peak (Linux)."""

from __future__ import annotations

import ctypes
from pathlib import Path


def reset_peak() -> int:
    """Lets the peak count from here; returns the resident size in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return status_bytes("VmRSS")


def peak_bytes() -> int:
    """Largest resident size since `reset_peak`, bytes."""
    return status_bytes("VmHWM")


def status_bytes(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def malloc_trim() -> None:
    """Gives memory that the C library keeps free back to the system, so that the next peak is seen whole."""
    library = ctypes.CDLL(None)
    if hasattr(library, "malloc_trim"):
        library.malloc_trim(0)
