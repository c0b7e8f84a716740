"""Order and kind of the segments of a JPEG file, and what follows its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SOS, _EOI, _APP0, _APP15 = 0xDA, 0xD9, 0xE0, 0xEF
_MAX_SEGMENTS: Final = 4096


@dataclass(frozen=True)
class Segment:
    """One marker segment before the first scan."""

    marker: int
    """Second byte of the marker, e.g. 0xE1."""
    identifier: str
    """Name of an application segment up to its first zero byte ("JFIF", "Exif", "ICC_PROFILE"); else empty."""
    offset: int
    """Of the marker in the file, in bytes."""
    length: int
    """As announced, without the marker, in bytes."""


@dataclass(frozen=True)
class JpegStructure:
    """Segments before the first scan and the bytes after the end of the image."""

    segments: tuple[Segment, ...]
    trailing_bytes: int
    """After the first end-of-image marker: previews, depth maps, films, or anything else."""

    def index(self, identifier: str) -> int:
        """Position of the first application segment of that name; -1 when there is none."""
        return next((i for i, segment in enumerate(self.segments) if segment.identifier == identifier), -1)

    @property
    def jfif_first(self) -> bool:
        """A JFIF header stands before the EXIF block, as encoders of programs write it and most cameras do not."""
        return 0 <= self.index("JFIF") < self.index("Exif")


def read_structure(data: bytes) -> JpegStructure | None:
    """Reads the segments of a JPEG file; None when it is not one."""
    if data[:2] != b"\xff\xd8":
        return None
    segments: list[Segment] = []
    position = 2
    while position + 4 <= len(data) and len(segments) < _MAX_SEGMENTS:
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        if marker in (_SOS, _EOI):
            break
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + min(length, 64)]
        name = body.split(b"\0", 1)[0].decode("latin-1") if _APP0 <= marker <= _APP15 else ""
        segments.append(Segment(marker, name[:40] if name.isprintable() else "", position, length))
        position += 2 + max(length, 2)
    end = data.find(b"\xff\xd9", min(position, len(data)))  # entropy-coded data cannot contain this pair
    return JpegStructure(tuple(segments), len(data) - end - 2 if end >= 0 else 0)
