"""Pictures for vision-language models: encoded files in, decoded pictures out, within limits."""

from __future__ import annotations

import io
import struct
import warnings
from typing import Any

from serving.errors import MaifsError, Reason

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 4_194_304
"""Of one picture. A model scales larger ones down anyway, and decoded pictures wait in memory with their request."""

_DAMAGED = (OSError, ValueError, SyntaxError, struct.error)
"""What Pillow's decoders raise on damaged files."""


def decode_image(data: bytes, name: str) -> Any:
    """Decodes one picture; call it in a thread.

    Args:
        data: JPEG, PNG or WebP file.
        name: the field, for messages.

    Returns:
        PIL image, mode RGB.

    Raises:
        MaifsError: EMPTY_FILE, NOT_AN_IMAGE, TOO_MANY_PIXELS or CORRUPT_IMAGE.
    """
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise MaifsError(Reason.EMPTY_FILE, f"{name} has no bytes.", "Send the encoded file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise MaifsError(Reason.NOT_AN_IMAGE, f"{name} is not a {', '.join(FORMATS)} file.") from None
    except Image.DecompressionBombError as error:
        raise _too_many_pixels(f"{name}: {error}") from None
    except _DAMAGED as error:
        raise _corrupt(name, error) from None
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise _too_many_pixels(f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are taken.")
    try:
        return picture.convert("RGB")
    except _DAMAGED as error:
        raise _corrupt(name, error) from None


def _too_many_pixels(message: str) -> MaifsError:
    return MaifsError(Reason.TOO_MANY_PIXELS, message, "Scale it down.")


def _corrupt(name: str, error: Exception) -> MaifsError:
    return MaifsError(Reason.CORRUPT_IMAGE, f"{name} cannot be decoded: {error}.")
