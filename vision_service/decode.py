"""Safe decoding: bytes in, `Substrate` out, or a clear error."""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pillow_heif
import torch
from PIL import Image, UnidentifiedImageError

from serving.errors import MaifsError, Reason
from vision_service import metadata
from vision_service.container import Container
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # our own limit below answers with our own error, before any pixel is decoded

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")
"""Container formats that are decoded, in the order in which they are tried."""

_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I": 16, "F": 32}


def decode(data: bytes, limits: DecodeLimits, device: torch.device | None = None) -> Substrate:
    """Decodes the first frame of an image file.

    Args:
        data: the whole file.
        limits: refused beyond these.
        device: where the tensors of the substrate will live; CPU when not given.

    Raises:
        MaifsError: EMPTY_FILE, IMAGE_TOO_LARGE, NOT_AN_IMAGE, TOO_MANY_PIXELS or CORRUPT_IMAGE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata, which is our daily bread
        image = _admit(data, limits)
        container = _container(image, data)
        rgb = _pixels(image)
        if container.format == "PNG":  # text chunks after the pixels are known only now
            container = replace(container, text=metadata.read_text(image), xmp=metadata.read_xmp(image))
    return Substrate(data=data, container=container, rgb=rgb, device=device or torch.device("cpu"))


def read_size(data: bytes, limits: DecodeLimits) -> tuple[int, int]:
    """Width and height in pixels of a file that `decode` would begin to decode, from its header.

    Raises:
        MaifsError: see `decode`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _admit(data, limits).size


def _admit(data: bytes, limits: DecodeLimits) -> Image.Image:
    """The opened file, none of its pixels decoded yet."""
    if not data:
        raise MaifsError(Reason.EMPTY_FILE, "The file is empty (0 bytes).", "Send the image file's bytes.")
    if len(data) > limits.max_image_bytes:
        raise MaifsError(
            Reason.IMAGE_TOO_LARGE,
            f"The file has {len(data):,} bytes; the limit is {limits.max_image_bytes:,}.",
            "Raise max_image_bytes in the service's configuration if such files are expected.",
        )
    image = _open(data)
    _check_size(image, limits)
    return image


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
    exif = metadata.read_exif(image)
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
        xmp=metadata.read_xmp(image),
        text=metadata.read_text(image),
        iptc=metadata.read_iptc(image),
        icc_description=metadata.read_icc_description(image),
        thumbnail=metadata.read_thumbnail(image),
    )


def _format_name(image: Image.Image) -> str:
    return {"MPO": "JPEG"}.get(image.format or "", image.format or "")


def _bit_depth(image: Image.Image, data: bytes) -> int:
    if image.format == "PNG" and len(data) > 24:
        return data[24]
    return int(image.info.get("bit_depth", _BITS.get(image.mode, 8)))
