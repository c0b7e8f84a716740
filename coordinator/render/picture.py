"""Pictures for reports and for a model: downscaled copies of the analysed file, and heat maps as coloured overlays.

What came from outside is decoded in bounded workers (`codecs`), which start with the first picture.
"""

from __future__ import annotations

import atexit
import hashlib
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maifs.common.v1 import finding_pb2, image_pb2
from serving.bounded.pool import Answer, BoundedPool, Bounds
from serving.bounded.shared import SharedFile
from serving.errors import MaifsError, Reason

PREVIEW_SIDE_PX = 1600
"""Longest side of the copy in a report."""
THUMBNAIL_SIDE_PX = 160
"""Longest side of the copy in an index."""
MAX_PIXELS = 256_000_000
"""Of a picture that is decoded: what the services accepted must be shown."""
MAX_DECODE_S = 60.0
"""Of one step; then its worker is killed."""

_FIXED_BYTES = 256 * 2**20
_BYTES_PER_PIXEL = 40  # of 16-bit grey, whose levels are scaled as 64-bit numbers
_TASKS = {name: f"coordinator.render.codecs:{name}" for name in ("size", "copies", "overlay")}  # numpy stays out
_POOL = BoundedPool(_TASKS, 2)
atexit.register(_POOL.close)


@dataclass(frozen=True, eq=False)
class Preview:
    """Downscaled JPEG copies, stored orientation."""

    jpeg: bytes
    thumbnail: bytes


@dataclass(frozen=True, eq=False)
class Copy:
    """A downscaled JPEG copy."""

    jpeg: bytes
    width_px: int
    height_px: int


@dataclass(frozen=True, eq=False)
class Overlay:
    """A heat map to lay over the picture."""

    png: bytes
    """RGBA: transparent where the map is 0 and more opaque as it grows; yellow to red where bright places passed a
    significance test, light to dark blue where they prove nothing, so that nobody takes these for an alarm."""
    width_px: int
    """Width in image pixels that the map spans; may reach over the picture's right edge."""
    height_px: int
    """Height in image pixels."""


def load_preview(source: Path | bytes, info: image_pb2.ImageInfo) -> Preview | None:
    """Copies of a picture, EXIF orientation not applied; None when the file is gone, changed or cannot be shown.

    Args:
        source: the file that was analysed, or its bytes.
        info: what the services said of it; the digest must still hold.
    """
    try:
        data = source if isinstance(source, bytes) else _read(source, info.size_bytes)
        if hashlib.sha256(data).digest() != info.sha256:
            return None
        large, small = copies(data, (PREVIEW_SIDE_PX, 85), (THUMBNAIL_SIDE_PX, 80))
    except (OSError, MaifsError):
        return None
    return Preview(large.jpeg, small.jpeg)


def _read(path: Path, size_bytes: int) -> bytes:
    """The file, when it is one and has the size; a name from elsewhere may lead to a pipe or a device."""
    status = path.stat()
    return path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size == size_bytes else b""


def copies(data: bytes, *wanted: tuple[int, int]) -> list[Copy]:
    """RGB copies, stored orientation; call it in a thread.

    Args:
        data: the encoded file.
        wanted: longest side in pixels and JPEG quality of each; the sides fall.

    Raises:
        MaifsError: CORRUPT_IMAGE, TOO_MANY_PIXELS, DECODER_FAILED.
        OSError: no worker can be made.
    """
    file = SharedFile(data)
    width, height = _call("size", file, {}, len(data)).value
    if width * height > MAX_PIXELS:
        raise MaifsError(Reason.TOO_MANY_PIXELS, f"The picture is too large to make a copy: {width} x {height} pixels.")
    answer = _call("copies", file, {"copies": wanted}, len(data), width * height)
    return [Copy(bytes(jpeg), *size) for jpeg, size in zip(answer.buffers, answer.value, strict=True)]


def overlay(heat_map: finding_pb2.HeatMap) -> Overlay | None:
    """A heat map in colour; None when its PNG cannot be read."""
    parameters = {"side_px": PREVIEW_SIDE_PX, "significant": heat_map.significant}
    try:
        answer = _call("overlay", SharedFile(heat_map.png), parameters, len(heat_map.png))
    except (OSError, MaifsError):
        return None
    cell = max(1, heat_map.cell_px)
    width, height = answer.value
    return Overlay(bytes(answer.buffers[0]), width * cell, height * cell)


def _call(task: str, file: SharedFile, parameters: dict[str, Any], file_bytes: int, pixels: int = 0) -> Answer:
    memory_bytes = _FIXED_BYTES + 3 * file_bytes + _BYTES_PER_PIXEL * pixels
    return _POOL.call(task, file, parameters, Bounds(MAX_DECODE_S, memory_bytes))
