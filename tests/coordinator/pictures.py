"""Small picture files for tests."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def png(seed: int = 0) -> bytes:
    """A PNG of 64 x 48 random pixels."""
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_picture(path: Path, seed: int = 0) -> Path:
    """The same as a file."""
    path.write_bytes(png(seed))
    return path
