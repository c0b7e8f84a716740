"""What tests may ask of a picture's file beyond its pixels, each of it C code on bytes from outside."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vision_service.decoding.credentials import read_document
from vision_service.decoding.thumbnails import decode_thumbnail
from vision_service.jpeg import JpegData, read_jpeg


class Codecs(Protocol):
    """The codecs, over one file."""

    def coefficients(self) -> JpegData | None:
        """See `vision_service.jpeg.read_jpeg`."""

    def credentials(self, container_format: str, trust_anchors_pem: str) -> str | None:
        """See `credentials.read_document`."""

    def thumbnail(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        """See `thumbnails.decode_thumbnail`."""


@dataclass(frozen=True, eq=False)
class OwnProcess:
    """The codecs in this process, for calibration, benchmarks and tests over files that are trusted."""

    data: bytes

    def coefficients(self) -> JpegData | None:
        """See Codecs."""
        return read_jpeg(self.data)

    def credentials(self, container_format: str, trust_anchors_pem: str) -> str | None:
        """See Codecs."""
        return read_document(io.BytesIO(self.data), container_format, trust_anchors_pem)

    def thumbnail(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        """See Codecs."""
        return decode_thumbnail(data)
