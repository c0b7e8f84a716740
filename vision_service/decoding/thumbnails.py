"""The JPEG thumbnail of an EXIF block."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

MAX_SIDE_PX: Final = 1024
"""Larger "thumbnails" are previews of another kind and are not compared."""
MIN_SIDE_PX: Final = 40


def decode_thumbnail(data: bytes) -> npt.NDArray[np.uint8] | None:
    """Grey thumbnail, shape (height, width), 0..255; None when it is missing, damaged or not of a thumbnail's size."""
    if not data:
        return None
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
        if not MIN_SIDE_PX <= min(image.size) <= max(image.size) <= MAX_SIDE_PX:
            return None
        return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, EOFError):
        return None
