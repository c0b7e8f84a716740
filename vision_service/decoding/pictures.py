"""Safe decoding of the first frame and the metadata: a file in, pixels and container facts out, or a clear error."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, UnidentifiedImageError

from serving.errors import MaifsError, Reason
from vision_service import metadata
from vision_service.container import Container
from vision_service.limits import DecodeLimits

pillow_heif.register_heif_opener()
Image.MAX_IMAGE_PIXELS = None  # our own limit below answers with our own error, before any pixel is decoded

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF")
"""Container formats that are decoded, in the order in which they are tried."""

Pixels = npt.NDArray[np.uint8]
_BITS = {"1": 1, "I;16": 16, "I;16B": 16, "I": 16, "F": 32}
_STRIP_ROWS = 64


def decode_picture(file: BinaryIO, limits: DecodeLimits) -> tuple[Container, Iterator[Pixels]]:
    """Decodes the first frame.

    Args:
        file: the whole file.
        limits: refused beyond these.

    Returns:
        Container facts, and from top to bottom strips of shape (rows, width, 3), C-contiguous, as `Substrate.rgb`
        describes the whole.

    Raises:
        MaifsError: EMPTY_FILE, IMAGE_TOO_LARGE, NOT_AN_IMAGE, TOO_MANY_PIXELS or CORRUPT_IMAGE.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about odd metadata, which is our daily bread
        image = _admit(file, limits)
        container = _container(image, file)
        with _broken_is_corrupt():
            image.seek(0)
            image.load()
        if container.format == "PNG":  # text chunks after the pixels are known only now
            container = replace(container, text=metadata.read_text(image), xmp=metadata.read_xmp(image))
    return container, _strips(image)


def read_size(file: BinaryIO, limits: DecodeLimits) -> tuple[int, int]:
    """Width and height in pixels of a file that `decode_picture` would begin to decode, from its header.

    Raises:
        MaifsError: see `decode_picture`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _admit(file, limits).size


def _admit(file: BinaryIO, limits: DecodeLimits) -> Image.Image:
    """The opened file, none of its pixels decoded yet."""
    size_bytes = file.seek(0, 2)
    file.seek(0)
    if size_bytes == 0:
        raise MaifsError(Reason.EMPTY_FILE, "The file is empty (0 bytes).", "Send the image file's bytes.")
    if size_bytes > limits.max_image_bytes:
        raise MaifsError(
            Reason.IMAGE_TOO_LARGE,
            f"The file has {size_bytes:,} bytes; the limit is {limits.max_image_bytes:,}.",
            "Raise max_image_bytes in the service's configuration if such files are expected.",
        )
    image = _open(file)
    _check_size(image, limits)
    return image


def _open(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(16).hex(" ")
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


@contextmanager
def _broken_is_corrupt() -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, EOFError, struct.error, RuntimeError, IndexError) as error:
        raise _corrupt(error) from error


def _strips(image: Image.Image) -> Iterator[Pixels]:
    """Converts strip by strip: a converted copy of the whole would cost as much memory as the picture itself."""
    with _broken_is_corrupt():
        deep = image.mode.startswith("I;16") or image.mode in {"I", "F"}
        yield from _deep_strips(image) if deep else _colour_strips(image)


def _colour_strips(image: Image.Image) -> Iterator[Pixels]:
    alpha = image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or (image.mode == "P" and "transparency" in image.info)
    mode = "RGBA" if alpha else "RGB"
    for top in range(0, image.height, _STRIP_ROWS):
        strip = image.crop((0, top, image.width, min(top + _STRIP_ROWS, image.height)))
        yield np.ascontiguousarray(np.asarray(strip if strip.mode == mode else strip.convert(mode))[:, :, :3])


def _deep_strips(image: Image.Image) -> Iterator[Pixels]:
    """16-bit and float grey to 8-bit RGB: 65535 (or the float maximum) becomes 255."""
    values = np.asarray(image)
    scale = 257.0
    if image.mode == "F":
        finite = np.nan_to_num(values, nan=0.0, posinf=65535.0, neginf=0.0)
        scale = max(float(finite.max()), 1e-9) / 255.0
    for top in range(0, image.height, _STRIP_ROWS):
        strip = values[top : top + _STRIP_ROWS].astype(np.float64)
        strip = np.nan_to_num(strip, nan=0.0, posinf=65535.0, neginf=0.0)
        grey = np.clip(np.rint(strip / scale), 0, 255).astype(np.uint8)
        yield np.repeat(grey[:, :, None], 3, axis=2)


def _container(image: Image.Image, file: BinaryIO) -> Container:
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
        bit_depth=_bit_depth(image, file),
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


def _bit_depth(image: Image.Image, file: BinaryIO) -> int:
    if image.format == "PNG":
        position = file.tell()
        file.seek(24)
        depth = file.read(1)
        file.seek(position)
        return depth[0]
    return int(image.info.get("bit_depth", _BITS.get(image.mode, 8)))
