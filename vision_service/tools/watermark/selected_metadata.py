"""The metadata that an analyst wants to see first."""

from __future__ import annotations

from typing import Final

from vision_service.container import Container
from vision_service.tools.watermark.metadata_source import read_xmp_safely

LIMIT: Final = 256
"""Longest value in characters."""

_EXIF: Final = (
    "Make", "Model", "LensModel", "Software", "ProcessingSoftware", "Artist", "Copyright", "DateTimeOriginal",
    "DateTime", "OffsetTimeOriginal", "ExposureTime", "FNumber", "ISOSpeedRatings", "FocalLength", "BodySerialNumber",
    "ImageUniqueID",
)  # fmt: skip
_XMP: Final = ("xmp:CreatorTool", "Iptc4xmpExt:DigitalSourceType", "photoshop:Credit", "xmp:ModifyDate")
_IPTC: Final = ("Credit", "Source", "OriginatingProgram", "Byline")
_TEXT: Final = ("Software", "comment", "Comment")


def selected_metadata(container: Container) -> dict[str, str]:
    """Camera, software, date and origin fields by name, each value of at most `LIMIT` characters.

    Names are EXIF tag names, XMP names with prefix, "IPTC <name>" and "text <keyword>". Values are untrusted text.
    """
    xmp, fault = read_xmp_safely(container.xmp)
    found = {name: container.exif.get(name, "") for name in _EXIF}
    found |= {name: xmp.first(name) for name in _XMP}
    found |= {f"IPTC {name}": container.iptc.get(name, "") for name in _IPTC}
    found |= {f"text {name}": container.text.get(name, "") for name in _TEXT}
    found["GPS"] = "present" if any(name.startswith("GPSL") for name in container.exif) else ""
    found["thumbnail"] = f"{len(container.thumbnail)} bytes" if container.thumbnail else ""
    found["ICC profile"] = container.icc_description
    found["XMP"] = f"unreadable: {fault}" if fault else ""
    cleaned = {name: "".join(c if c.isprintable() else " " for c in value).strip() for name, value in found.items()}
    return {name: value[:LIMIT] for name, value in cleaned.items() if value}
