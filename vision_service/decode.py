"""Safe decoding: bytes in, `Substrate` out, or a clear error."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pillow_heif
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from serving.errors import MaifsError, Reason
from vision_service.container import Container
from vision_service.substrate import Substrate

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # our own limit below answers with our own error, before any pixel is decoded

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")
"""Container formats that are decoded, in the order in which they are tried."""

_TEXT_LIMIT = 512
_COMMENT_LIMIT = 65_536  # generators keep whole workflows in PNG text; detection needs the beginning only
_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I": 16, "F": 32}


@dataclass(frozen=True)
class DecodeLimits:
    """What is refused before any pixel is decoded."""

    max_image_bytes: int = 128 * 1024 * 1024
    """Largest file in bytes."""
    max_pixels: int = 128_000_000
    """Largest width x height."""
    max_side_px: int = 32_768
    """Largest width or height."""


def decode(data: bytes, limits: DecodeLimits, device: torch.device | None = None) -> Substrate:
    """Decodes the first frame of an image file.

    Args:
        data: the whole file.
        limits: refused beyond these.
        device: where the tensors of the substrate will live; CPU when not given.

    Raises:
        MaifsError: EMPTY_FILE, IMAGE_TOO_LARGE, NOT_AN_IMAGE, TOO_MANY_PIXELS or CORRUPT_IMAGE.
    """
    if not data:
        raise MaifsError(Reason.EMPTY_FILE, "The file is empty (0 bytes).", "Send the image file's bytes.")
    if len(data) > limits.max_image_bytes:
        raise MaifsError(
            Reason.IMAGE_TOO_LARGE,
            f"The file has {len(data):,} bytes; the limit is {limits.max_image_bytes:,}.",
            "Raise max_image_bytes in the service's configuration if such files are expected.",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata, which is our daily bread
        image = _open(data)
        _check_size(image, limits)
        container = _container(image, data)
        rgb = _pixels(image)
    return Substrate(data=data, container=container, rgb=rgb, device=device or torch.device("cpu"))


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        head = data[:16].hex(" ")
        raise MaifsError(
            Reason.NOT_AN_IMAGE,
            f"The content is not an image of a supported format (it starts with {head}).",
            f"Supported by content, whatever the file is called: {', '.join(FORMATS)}.",
        ) from None
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError) as error:
        raise _corrupt(error) from error


def _corrupt(error: Exception) -> MaifsError:
    detail = str(error).strip() or type(error).__name__
    return MaifsError(
        Reason.CORRUPT_IMAGE,
        f"The image is damaged or cut short: {detail[:200]}.",
        "Compare the file with its source; a damaged copy cannot be judged.",
    )


def _check_size(image: Image.Image, limits: DecodeLimits) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise _corrupt(ValueError(f"size {width} x {height}"))
    if width * height > limits.max_pixels or max(width, height) > limits.max_side_px:
        raise MaifsError(
            Reason.TOO_MANY_PIXELS,
            f"The image has {width:,} x {height:,} pixels; the limits are {limits.max_pixels:,} in all "
            f"and {limits.max_side_px:,} a side.",
            "It was refused before decoding. Crop it, or raise max_pixels and max_side_px.",
        )


def _pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    try:
        image.seek(0)
        image.load()
        if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
            return _from_deep(image)
        if image.mode == "P" and "transparency" in image.info:
            image = image.convert("RGBA")
        if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"}:
            image = image.convert("RGBA")
            return np.ascontiguousarray(np.asarray(image)[:, :, :3])
        return np.array(image.convert("RGB"))
    except MaifsError:
        raise
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError, IndexError) as error:
        raise _corrupt(error) from error


def _from_deep(image: Image.Image) -> npt.NDArray[np.uint8]:
    """16-bit and float grey to 8-bit RGB: 65535 (or the float maximum) becomes 255."""
    values = np.asarray(image).astype(np.float64)
    values = np.nan_to_num(values, nan=0.0, posinf=65535.0, neginf=0.0)
    scale = 257.0 if image.mode != "F" else max(float(values.max()), 1e-9) / 255.0
    grey = np.clip(np.rint(values / scale), 0, 255).astype(np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def _container(image: Image.Image, data: bytes) -> Container:
    exif = _exif(image)
    try:
        orientation = int(exif.get("Orientation", "1"))
    except ValueError:
        orientation = 1
    return Container(
        format=_format_name(image),
        width_px=image.width,
        height_px=image.height,
        mode=image.mode,
        bit_depth=_bit_depth(image, data),
        frame_count=max(1, int(getattr(image, "n_frames", 1) or 1)),
        orientation=orientation if 1 <= orientation <= 8 else 1,
        exif=exif,
        xmp=_xmp(image),
        text=_text(image),
        icc_description=_icc_description(image),
    )


def _format_name(image: Image.Image) -> str:
    return {"MPO": "JPEG"}.get(image.format or "", image.format or "")


def _bit_depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and len(data) > 24:
        return data[24]
    return int(image.info.get("bit_depth", _BITS.get(image.mode, 8)))


def _exif(image: Image.Image) -> dict[str, str]:
    """All IFDs flattened by tag name; unreadable parts are left out, because broken EXIF must not hide the picture."""
    found: dict[str, str] = {}
    try:
        exif = image.getexif()
        directories = [dict(exif), exif.get_ifd(ExifTags.IFD.Exif), exif.get_ifd(ExifTags.IFD.GPSInfo)]
    except Exception:  # noqa: BLE001 - Pillow raises anything on broken EXIF
        return found
    for names, directory in zip((ExifTags.TAGS, ExifTags.TAGS, ExifTags.GPSTAGS), directories, strict=True):
        for tag, value in directory.items():
            name = names.get(tag, f"0x{tag:04X}")
            if not isinstance(value, dict) and name not in {"MakerNote", "ExifOffset", "GPSInfo"}:
                found[name] = _as_text(value)
    return found


def _as_text(value: object) -> str:
    if isinstance(value, bytes):
        for prefix in (b"ASCII\0\0\0", b"UNICODE\0"):
            value = value.removeprefix(prefix)
        value = value.decode("utf-8", errors="replace")
    text = str(value).replace("\0", "").strip()
    return "".join(c if c.isprintable() else " " for c in text)[:_TEXT_LIMIT]


def _xmp(image: Image.Image) -> bytes:
    for key in ("xmp", "XML:com.adobe.xmp"):
        value = image.info.get(key)
        if value:
            return value if isinstance(value, bytes) else str(value).encode()
    return b""


def _text(image: Image.Image) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in image.info.items():
        if isinstance(key, str) and isinstance(value, str | bytes) and key not in {
            "exif", "icc_profile", "xmp", "XML:com.adobe.xmp", "photoshop",
        }:
            text = value.decode("utf-8", errors="replace") if isinstance(value, bytes) else str(value)
            found[key[:80]] = text[:_COMMENT_LIMIT]
    return found


def _icc_description(image: Image.Image) -> str:
    profile = image.info.get("icc_profile")
    if not profile:
        return ""
    try:
        return _as_text(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))))
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "unreadable"
