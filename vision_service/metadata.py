"""Metadata of an opened image as text: EXIF, XMP, IPTC-IIM, PNG text, comments, ICC name, EXIF thumbnail.

Broken metadata must not hide the picture: whatever cannot be read is left out.
"""

from __future__ import annotations

import io
import struct

from PIL import ExifTags, Image, ImageCms, ImageFile, IptcImagePlugin, PngImagePlugin

TEXT_LIMIT = 512
"""Longest EXIF or IPTC value in characters."""
COMMENT_LIMIT = 65_536
"""Longest text chunk or comment in characters: generators keep whole workflows there, whose beginning suffices."""
XMP_LIMIT = 4 * 1024 * 1024
"""Longest XMP packet in bytes; longer ones are cut and then fail to parse."""

# A compressed text chunk may hold a whole workflow; Pillow's default of 1 MiB would refuse the picture.
PngImagePlugin.MAX_TEXT_CHUNK = 8 * 1024 * 1024

_XP_TAGS = {"XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject"}
_LEFT_OUT = {"MakerNote", "ExifOffset", "GPSInfo", "UserComment", "XMLPacket", "IPTCNAA", "ImageResources"}
_NOT_TEXT = {
    "exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "photoshop", "transparency", "jfif", "adobe", "compression",
    "mp", "Raw profile type exif",
}  # fmt: skip
_IPTC_NAMES = {
    (2, 5): "ObjectName",
    (2, 40): "SpecialInstructions",
    (2, 65): "OriginatingProgram",
    (2, 70): "ProgramVersion",
    (2, 80): "Byline",
    (2, 110): "Credit",
    (2, 115): "Source",
    (2, 116): "CopyrightNotice",
    (2, 120): "Caption",
}
_THUMBNAIL_OFFSET, _THUMBNAIL_LENGTH = 0x0201, 0x0202
_XMP_TIFF_TAG, _USER_COMMENT_TAG = 700, 0x9286


def as_text(value: object) -> str:
    """A metadata value as one printable line of at most `TEXT_LIMIT` characters."""
    if isinstance(value, bytes):
        value = decode_bytes(value)
    text = str(value).replace("\0", "").strip()
    return "".join(c if c.isprintable() else " " for c in text[:TEXT_LIMIT])


def decode_bytes(value: bytes) -> str:
    """Text of an EXIF byte string with or without the 8-byte character code of UserComment (EXIF 2.32, 4.6.5)."""
    code, rest = value[:8], value[8:]
    if code == b"ASCII\0\0\0":
        return rest.decode("utf-8", errors="replace")
    if code == b"UNICODE\0":
        return rest.decode(_utf16_order(rest), errors="replace")
    return value.decode("utf-8", errors="replace")


def _utf16_order(data: bytes) -> str:
    """Writers disagree on the byte order; western text has its zero bytes on the high side."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    return "utf-16-be" if data[0:64:2].count(0) >= data[1:64:2].count(0) else "utf-16-le"


def read_exif(image: Image.Image) -> dict[str, str]:
    """All directories flattened by tag name, without maker note, thumbnail and user comment."""
    found: dict[str, str] = {}
    try:
        exif = image.getexif()
        directories = [dict(exif), exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)]
    except Exception:  # noqa: BLE001 - Pillow raises anything on broken EXIF
        return found
    for names, directory in zip((ExifTags.TAGS, ExifTags.TAGS, ExifTags.GPSTAGS), directories, strict=True):
        for tag, value in directory.items():
            name = names.get(tag, f"0x{tag:04X}")
            if isinstance(value, dict) or name in _LEFT_OUT:
                continue
            found[name] = as_text(_windows_text(value) if name in _XP_TAGS else value)
    return found


def _windows_text(value: object) -> str:
    data = bytes(value) if isinstance(value, bytes | tuple) else str(value).encode("utf-16-le")
    return data.decode("utf-16-le", errors="replace")


def read_user_comment(image: Image.Image) -> str:
    """The EXIF user comment, at most `COMMENT_LIMIT` characters; empty when there is none."""
    try:
        value = image.getexif().get_ifd(ExifTags.IFD.Exif).get(_USER_COMMENT_TAG)
    except Exception:  # noqa: BLE001 - as in read_exif
        return ""
    text = decode_bytes(value) if isinstance(value, bytes) else str(value or "")
    return text.replace("\0", "").strip()[:COMMENT_LIMIT]


def read_thumbnail(image: Image.Image) -> bytes:
    """The JPEG thumbnail of EXIF directory 1, as stored; empty when there is none."""
    block = image.info.get("exif")
    if not isinstance(block, bytes):
        return b""
    try:
        directory = image.getexif().get_ifd(ExifTags.IFD.IFD1)
        start, length = int(directory[_THUMBNAIL_OFFSET]), int(directory[_THUMBNAIL_LENGTH])
    except Exception:  # noqa: BLE001 - as in read_exif
        return b""
    thumbnail = block.removeprefix(b"Exif\0\0")[max(start, 0) : max(start, 0) + max(length, 0)]
    return thumbnail if thumbnail[:2] == b"\xff\xd8" else b""


def read_xmp(image: Image.Image) -> bytes:
    """The XMP packet, raw."""
    candidates = [image.info.get("xmp"), image.info.get("XML:com.adobe.xmp")]
    tags = getattr(image, "tag_v2", None)
    if tags is not None:
        candidates.append(tags.get(_XMP_TIFF_TAG))
    for value in candidates:
        if value:
            data = value if isinstance(value, bytes) else str(value).encode()
            return data[:XMP_LIMIT]
    return b""


def read_text(image: Image.Image) -> dict[str, str]:
    """PNG text chunks, comments and the user comment by keyword."""
    found: dict[str, str] = {}
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str | bytes) and key not in _NOT_TEXT:
            text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
            found[key[:80]] = text[:COMMENT_LIMIT]
    comment = read_user_comment(image)
    if comment:
        found.setdefault("UserComment", comment)
    return found


def read_iptc(image: Image.Image) -> dict[str, str]:
    """The IPTC-IIM records that name a source or a program."""
    if not isinstance(image, ImageFile.ImageFile):
        return {}
    try:
        records = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:  # noqa: BLE001 - Pillow raises anything on broken records
        return {}
    found: dict[str, str] = {}
    for key, name in _IPTC_NAMES.items():
        value = records.get(key)
        if isinstance(value, list):
            value = b", ".join(v for v in value if isinstance(v, bytes))
        if isinstance(value, bytes) and value:
            found[name] = as_text(value)
    return found


def read_icc_description(image: Image.Image) -> str:
    """Name of the ICC profile, "unreadable" when it is broken, empty when there is none."""
    profile = image.info.get("icc_profile")
    if not profile:
        return ""
    try:
        return as_text(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))))
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError, struct.error):
        return "unreadable"
