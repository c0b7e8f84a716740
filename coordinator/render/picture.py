"""Pictures for HTML reports: a downscaled copy of the analysed file, and heat maps as coloured overlays."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image

from maifs.common.v1 import finding_pb2, image_pb2

PREVIEW_SIDE_PX = 1600
"""Longest side of the copy in a report."""
THUMBNAIL_SIDE_PX = 160
"""Longest side of the copy in an index."""

_MAX_PIXELS = 256_000_000  # what the services accepted must be shown; what only claims to be the file must not harm
_MAX_MAP_PIXELS = 64_000_000
OPEN_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, MemoryError, IndexError, KeyError, TypeError)
_SIGNIFICANT = (np.array([255.0, 225.0, 30.0]), np.array([230.0, 0.0, 60.0]))
_NOT_SIGNIFICANT = (np.array([190.0, 215.0, 255.0]), np.array([25.0, 60.0, 190.0]))

pillow_heif.register_heif_opener()


@dataclass(frozen=True, eq=False)
class Preview:
    """Downscaled JPEG copies, stored orientation."""

    jpeg: bytes
    thumbnail: bytes


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
    except OSError:
        return None
    if hashlib.sha256(data).digest() != info.sha256:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large pictures and odd metadata are ordinary here
            return _preview(data)
    except OPEN_ERRORS:
        return None


def _read(path: Path, size_bytes: int) -> bytes:
    """The file, when it is one and has the size; a name from elsewhere may lead to a pipe or a device."""
    status = path.stat()
    return path.read_bytes() if stat.S_ISREG(status.st_mode) and status.st_size == size_bytes else b""


def _preview(data: bytes) -> Preview | None:
    copy = downscaled(data, PREVIEW_SIDE_PX)
    if copy is None:
        return None
    small = copy.copy()
    small.thumbnail((THUMBNAIL_SIDE_PX, THUMBNAIL_SIDE_PX), Image.Resampling.LANCZOS)
    return Preview(to_jpeg(copy, 85), to_jpeg(small, 80))


def downscaled(data: bytes, side_px: int) -> Image.Image | None:
    """An RGB copy with no side above `side_px`, stored orientation; None for pictures that are too large to decode.

    Raises one of `OPEN_ERRORS` for what is no picture.
    """
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        image = Image.open(io.BytesIO(data))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > _MAX_PIXELS:
        return None
    image.draft("RGB", (side_px, side_px))
    copy = _to_rgb(image)
    copy.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return copy


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB; transparency over white, 16-bit and float grey scaled as the vision service scales it."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float64), nan=0.0, posinf=65535.0, neginf=0.0)
        scale = 257.0 if image.mode != "F" else max(float(values.max()), 1e-9) / 255.0
        return Image.fromarray(np.clip(values / scale, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        white.alpha_composite(rgba)
        return white.convert("RGB")
    return image.convert("RGB")


def to_jpeg(image: Image.Image, quality: int) -> bytes:
    """The encoded file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def overlay(heat_map: finding_pb2.HeatMap) -> Overlay | None:
    """A heat map in colour; None when its PNG cannot be read."""
    try:
        image = Image.open(io.BytesIO(heat_map.png), formats=("PNG",))
        if image.width * image.height > _MAX_MAP_PIXELS:
            return None
        values = np.asarray(image.convert("L"))
    except OPEN_ERRORS:
        return None
    scaled = Image.fromarray(values, "L")
    scaled.thumbnail((PREVIEW_SIDE_PX, PREVIEW_SIDE_PX), Image.Resampling.BOX)
    strength = np.asarray(scaled).astype(np.float64)[:, :, None] / 255.0
    low, high = _SIGNIFICANT if heat_map.significant else _NOT_SIGNIFICANT
    colour = low + (high - low) * strength
    rgba = np.concatenate([colour, 255.0 * np.sqrt(strength)], axis=2)
    buffer = io.BytesIO()
    Image.fromarray(np.rint(rgba).astype(np.uint8), "RGBA").save(buffer, "PNG", optimize=True)
    cell = max(1, heat_map.cell_px)
    return Overlay(buffer.getvalue(), values.shape[1] * cell, values.shape[0] * cell)
