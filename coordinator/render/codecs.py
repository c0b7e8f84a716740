"""What bounded workers do with a picture or a heat map for a report. Imported by them alone (serving/bounded)."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image

from serving.bounded.worker import Call
from serving.errors import MaifsError, Reason

_MAX_MAP_PIXELS = 64_000_000
_SIGNIFICANT = (np.array([255.0, 225.0, 30.0]), np.array([230.0, 0.0, 60.0]))
_NOT_SIGNIFICANT = (np.array([190.0, 215.0, 255.0]), np.array([25.0, 60.0, 190.0]))

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # the caller compares the size with its own limit before any pixel is decoded
warnings.simplefilter("ignore")  # large pictures and odd metadata are ordinary here


def _damaged_is_corrupt(task: Callable[[Call], Any]) -> Callable[[Call], Any]:
    @wraps(task)
    def run(call: Call) -> Any:
        try:
            return task(call)
        except (MaifsError, MemoryError):
            raise
        except Exception as error:  # decoders raise anything on damaged files
            raise MaifsError(Reason.CORRUPT_IMAGE, f"No copy of the picture could be made: {error}.") from error

    return run


@_damaged_is_corrupt
def size(call: Call) -> list[int]:
    """Width and height in pixels, from the header."""
    with call.open() as file:
        return list(Image.open(file).size)


@_damaged_is_corrupt
def copies(call: Call) -> list[list[int]]:
    """Widths and heights; the buffers are JPEG files, each smaller than the one before.

    Parameters: `copies`, a longest side in pixels and a JPEG quality for each.
    """
    sizes: list[list[int]] = []
    with call.open() as file:
        image: Image.Image | None = None
        for side_px, quality in call.parameters["copies"]:
            image = _downscaled(Image.open(file), side_px) if image is None else image.copy()
            image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
            call.put([_encoded(image, "JPEG", quality=quality)])
            sizes.append(list(image.size))
    return sizes


@_damaged_is_corrupt
def overlay(call: Call) -> list[int]:
    """Width and height of a heat map in cells; the buffer is it in colour, an RGBA PNG file.

    Parameters: `side_px`, the longest side of the PNG, and `significant`.
    """
    with call.open() as file:
        image = Image.open(file, formats=("PNG",))
        if image.width * image.height > _MAX_MAP_PIXELS:
            raise MaifsError(Reason.TOO_MANY_PIXELS, "The heat map is too large.")
        grey = image.convert("L")
    width, height = grey.size
    side_px = call.parameters["side_px"]
    grey.thumbnail((side_px, side_px), Image.Resampling.BOX)
    strength = np.asarray(grey).astype(np.float64)[:, :, None] / 255.0
    low, high = _SIGNIFICANT if call.parameters["significant"] else _NOT_SIGNIFICANT
    rgba = np.concatenate([low + (high - low) * strength, 255.0 * np.sqrt(strength)], axis=2)
    call.put([_encoded(Image.fromarray(np.rint(rgba).astype(np.uint8), "RGBA"), "PNG")])
    return [width, height]


def _downscaled(image: Image.Image, side_px: int) -> Image.Image:
    """An RGB copy with no side above `side_px`, stored orientation."""
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


def _encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, optimize=True, **options)
    return buffer.getvalue()
