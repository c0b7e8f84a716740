"""The metadata that an analyst wants to see, by name; untrusted text of the file, cut."""

from __future__ import annotations

from vision_service.container import Container
from vision_service.tools.watermark.xmp import XmpError, parse_xmp

_EXIF = (
    "Make", "Model", "LensModel", "Software", "Artist", "Copyright", "ImageDescription", "DateTimeOriginal", "DateTime",
    "ExposureTime", "FNumber", "ISOSpeedRatings", "FocalLength", "Flash", "ColorSpace",
)  # fmt: skip
_XMP = (
    "xmp:CreatorTool", "xmp:CreateDate", "xmp:ModifyDate", "Iptc4xmpExt:DigitalSourceType", "photoshop:Credit",
)  # fmt: skip
_LIMIT = 256


def selected_metadata(container: Container) -> dict[str, str]:
    """Camera, software, dates and origin of a file.

    Returns:
        At most 24 entries by name ("Model", "xmp:CreatorTool", "GPS", ...); values of at most 256 characters. A
        position is reported as "present" only: it concerns persons and proves nothing.
    """
    found = {name: container.exif[name] for name in _EXIF if container.exif.get(name)}
    if any(name.startswith("GPSLatitude") for name in container.exif):
        found["GPS"] = "present"
    found |= _from_xmp(container.xmp)
    found |= {f"iptc:{name}": container.iptc[name] for name in ("Credit", "Source") if container.iptc.get(name)}
    if container.icc_description:
        found["ICC profile"] = container.icc_description
    return {name: value[:_LIMIT] for name, value in found.items()}


def _from_xmp(packet: bytes) -> dict[str, str]:
    try:
        xmp = parse_xmp(packet) if packet else None
    except XmpError:
        return {"XMP": "unreadable"}
    return {name: xmp.first(name) for name in _XMP if xmp.first(name)} if xmp else {}
