"""What is refused before a picture is decoded. Imports nothing heavy: the command line reads it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused before any pixel is decoded."""

    max_image_bytes: int = 128 * 1024 * 1024
    """Largest file in bytes."""
    max_pixels: int = 128_000_000
    """Largest width x height."""
    max_side_px: int = 32_768
    """Largest width or height."""
