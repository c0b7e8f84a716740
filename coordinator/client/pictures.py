"""What can be sent: a file, the bytes of one, or an array of pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.errors import MaifsError, Reason

_LONGEST_NAME = 255
_CHANNELS = {1, 3, 4}


class ArrayLike(Protocol):
    """What numpy reads as an array: numpy's own, torch tensors on the CPU, and the like."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length by axis."""

    @property
    def __array__(self) -> Callable[..., npt.NDArray[np.generic]]:
        """See numpy."""


Sendable: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | ArrayLike"
"""A path, the bytes of an image file, or pixels."""


@dataclass(frozen=True)
class FilePicture:
    """A file on disk, read in chunks when its turn comes."""

    path: Path
    fault: str = ""
    """Why it cannot be sent, known before it is opened; empty otherwise."""
    shown_name: str = ""
    """Name in place of the path, where the file lies under another than its own."""

    @property
    def name(self) -> str:
        """The path as it was given."""
        return self.shown_name or str(self.path)

    @property
    def wire_name(self) -> str:
        """The name alone, without folders, as protobuf can carry it."""
        return _wire_name(self.shown_name or self.path.name)


@dataclass(frozen=True)
class BytesPicture:
    """An encoded image file in memory."""

    data: bytes
    name: str = ""
    """Shown in the report; may be empty."""

    @property
    def wire_name(self) -> str:
        """The name as protobuf can carry it."""
        return _wire_name(self.name)


def _wire_name(name: str) -> str:
    """Bytes of a file name that are no UTF-8 are replaced, since protobuf has none."""
    return name.encode("utf-8", errors="replace").decode("utf-8")[:_LONGEST_NAME]


Picture: TypeAlias = "FilePicture | BytesPicture"


def as_picture(picture: Sendable | Picture, name: str = "") -> Picture:
    """What is to be sent for a path, bytes or an array.

    Args:
        picture: a path is read later, when its turn comes; bytes are sent as they are; an array becomes a PNG file
            (`encode_png`).
        name: of bytes and arrays, for the report.

    Raises:
        MaifsError: INVALID_REQUEST for an array that is no picture.
        TypeError: for anything else.
    """
    if isinstance(picture, FilePicture | BytesPicture):
        return picture
    if isinstance(picture, str | os.PathLike):
        return FilePicture(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        return BytesPicture(bytes(picture), name)
    if hasattr(picture, "__array__") and hasattr(picture, "shape"):
        return BytesPicture(encode_png(np.asarray(picture)), name)
    raise TypeError(
        f"{type(picture).__name__} is neither a path, bytes nor an array. Of a decoded picture give the file that it "
        "came from: the evidence is in the file."
    )


def encode_png(pixels: npt.NDArray[np.generic]) -> bytes:
    """Pixels as a PNG file, every value kept.

    Args:
        pixels: (height, width), or (height, width, channels) with 1, 3 (RGB) or 4 (RGBA) channels; uint8 or uint16.

    Raises:
        MaifsError: INVALID_REQUEST for another shape or type.
    """
    shape_fits = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] in _CHANNELS)
    if not shape_fits or pixels.size == 0 or pixels.dtype not in (np.uint8, np.uint16):
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"An array of shape {pixels.shape} and type {pixels.dtype} is no picture.",
            "Give height x width, or height x width x 3 (RGB) or 4 (RGBA), as uint8 or uint16.",
        )
    import cv2

    values: npt.NDArray[np.unsignedinteger] = pixels.astype(np.uint16 if pixels.dtype == np.uint16 else np.uint8)
    if values.ndim == 3 and values.shape[2] > 1:
        order = [2, 1, 0, 3][: values.shape[2]]  # OpenCV writes BGR
        values = np.ascontiguousarray(values[:, :, order])
    written, buffer = cv2.imencode(".png", values)
    assert written
    return buffer.tobytes()
