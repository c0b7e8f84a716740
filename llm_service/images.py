"""Pictures for vision-language models: encoded files in, decoded pictures out, in bounded workers and within limits."""

from __future__ import annotations

import atexit
import warnings
from typing import Any

from PIL import Image, UnidentifiedImageError

from serving.bounded.pool import BoundedPool, Bounds
from serving.bounded.shared import SharedFile
from serving.bounded.worker import Call
from serving.errors import MaifsError, Reason

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 4_194_304
"""Of one picture. A model scales larger ones down anyway, and decoded pictures wait in memory with their request."""
MAX_DECODE_S = 30.0
"""Of one picture; then its worker is killed."""
MAX_DECODE_BYTES = 512 * 2**20
"""Address space that a worker may take for one picture, beyond three times its file."""

_POOL = BoundedPool({"rgb": f"{__name__}:rgb"}, 2)  # its processes start with the first picture
atexit.register(_POOL.close)


def decode_image(data: bytes, name: str) -> Any:
    """Decodes one picture; call it in a thread.

    Args:
        data: JPEG, PNG or WebP file.
        name: the field, for messages.

    Returns:
        PIL image, mode RGB.

    Raises:
        MaifsError: EMPTY_FILE, NOT_AN_IMAGE, TOO_MANY_PIXELS, CORRUPT_IMAGE or DECODER_FAILED.
    """
    if not data:
        raise MaifsError(Reason.EMPTY_FILE, f"{name} has no bytes.", "Send the encoded file.")
    bounds = Bounds(MAX_DECODE_S, MAX_DECODE_BYTES + 3 * len(data))
    answer = _POOL.call("rgb", SharedFile(data), {"name": name}, bounds, 3 * MAX_PIXELS)
    return Image.frombytes("RGB", tuple(answer.value), answer.buffers[0])


def rgb(call: Call) -> list[int]:
    """In a worker: width and height; the buffer is the pixels, (height, width, 3). Parameter: `name`, for messages."""
    name = call.parameters["name"]
    Image.MAX_IMAGE_PIXELS = None  # the limit below answers with an error of its own
    with call.open() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = Image.open(file, formats=FORMATS)
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise MaifsError(
                    Reason.TOO_MANY_PIXELS,
                    f"{name} has {width} x {height} pixels; at most {MAX_PIXELS:,} are taken.",
                    "Scale it down.",
                )
            call.put([picture.convert("RGB").tobytes()])
        except UnidentifiedImageError:
            raise MaifsError(Reason.NOT_AN_IMAGE, f"{name} is not a {', '.join(FORMATS)} file.") from None
        except (MaifsError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
            raise MaifsError(Reason.CORRUPT_IMAGE, f"{name} cannot be decoded: {error}.") from None
    return [width, height]
