"""What the file is, read from its container without decoding pixels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


def _no_text() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True)
class Container:
    """Container facts and raw metadata of one file. All text in it is untrusted."""

    format: str
    """"JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF" or "HEIF", by content."""
    width_px: int
    height_px: int
    mode: str
    """Pillow mode of the stored pixels: "L", "RGB", "RGBA", "P", "CMYK", "I;16" and the like."""
    bit_depth: int
    """Bits per sample as stored."""
    frame_count: int = 1
    orientation: int = 1
    """EXIF orientation 1..8."""
    exif: Mapping[str, str] = field(default_factory=_no_text)
    """EXIF by tag name ("Make", "Software", "DateTimeOriginal", ...), values as text of at most 512 characters."""
    xmp: bytes = b""
    """The XMP packet, raw; empty when there is none."""
    text: Mapping[str, str] = field(default_factory=_no_text)
    """PNG text chunks ("parameters", "Software", ...), JPEG and GIF comments ("comment") and the EXIF user comment
    ("UserComment") by keyword, values of at most 65,536 characters."""
    iptc: Mapping[str, str] = field(default_factory=_no_text)
    """IPTC-IIM records by name ("Credit", "OriginatingProgram", ...), values of at most 512 characters."""
    icc_description: str = ""
    thumbnail: bytes = b""
    """The JPEG thumbnail of the EXIF block, as stored; empty when there is none."""
