"""Copies of pictures with a known later history: laundered as the web does, and forged with a known region."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

ByteArray = npt.NDArray[np.uint8]

MAX_FORGED_SIDE_PX = 768
"""Forged copies are made of a crop of at most this side, so that making and testing many stays cheap."""


def decode_rgb(data: bytes) -> ByteArray:
    """Pixels of a file, shape (H, W, 3), 8 bit, without EXIF rotation."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def encode_jpeg(rgb: ByteArray, quality: int, subsampling: str = "4:2:0") -> bytes:
    """A JPEG file without metadata."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def _downscaled(data: bytes, longest_px: int) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = longest_px / max(image.size)
    if scale >= 1:
        return image
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS)


def launder(data: bytes) -> bytes:
    """Longest side at most 1024 px (Lanczos), JPEG quality 85 with 4:2:0, no metadata."""
    return encode_jpeg(np.asarray(_downscaled(data, 1024)), 85)


def jpeg75(data: bytes) -> bytes:
    """Same size, JPEG quality 75, no metadata."""
    return encode_jpeg(decode_rgb(data), 75)


def webp(data: bytes) -> bytes:
    """Longest side at most 1600 px, lossy WebP quality 80."""
    buffer = io.BytesIO()
    _downscaled(data, 1600).save(buffer, "WEBP", quality=80)
    return buffer.getvalue()


def screenshot(data: bytes) -> bytes:
    """Bilinear downscaling to at most 1280 px as a viewer shows it, saved as PNG."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = min(1280 / max(image.size), 0.9)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.BILINEAR).save(buffer, "PNG")
    return buffer.getvalue()


def resave(data: bytes) -> bytes:
    """The crop that the forgeries start from, unchanged, saved as JPEG 80..97: what a forgery must differ from."""
    rgb, rng = _crop(data)
    return _save(rgb, rng)


def splice(data: bytes) -> bytes:
    """A region is replaced by resampled, lightly denoised content from elsewhere in the picture; saved as JPEG 80..97.

    The background keeps its compression history, the region has none on this grid.
    """
    rgb, rng = _crop(data)
    height, width = rgb.shape[:2]
    factor = float(rng.uniform(1.05, 1.6))
    donor = cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    top, left = int(rng.integers(0, donor.shape[0] - height + 1)), int(rng.integers(0, donor.shape[1] - width + 1))
    donor = np.fliplr(donor[top : top + height, left : left + width])
    if rng.random() < 0.5:
        donor = cv2.GaussianBlur(donor, (0, 0), float(rng.uniform(0.5, 1.2)))
    mask = _blob(height, width, rng)[..., None]
    mixed = np.rint(rgb * (1 - mask) + donor * mask).astype(np.uint8)
    return _save(mixed, rng)


def copy_move(data: bytes) -> bytes:
    """A region is copied to another place of the picture, half the time turned and scaled; saved as JPEG 80..97."""
    rgb, rng = _crop(data)
    height, width = rgb.shape[:2]
    mask = _blob(height, width, rng)
    shift = np.array([width, height]) * rng.uniform(0.2, 0.45, 2) * rng.choice([-1, 1], 2)
    turned = rng.random() < 0.5
    centre = (width / 2, height / 2)
    angle, zoom = (float(rng.uniform(-15, 15)), float(rng.uniform(0.9, 1.1))) if turned else (0.0, 1.0)
    matrix = np.asarray(cv2.getRotationMatrix2D(centre, angle, zoom), np.float64)
    matrix[:, 2] += np.rint(shift)
    moved = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC)
    moved_mask = cv2.warpAffine(mask, matrix, (width, height))[..., None]
    mixed = np.rint(rgb * (1 - moved_mask) + moved * moved_mask).astype(np.uint8)
    return _save(mixed, rng)


def _save(rgb: ByteArray, rng: np.random.Generator) -> bytes:
    return encode_jpeg(rgb, int(rng.integers(80, 98)), ("4:2:0", "4:4:4")[int(rng.integers(2))])


def _crop(data: bytes) -> tuple[ByteArray, np.random.Generator]:
    """A crop on the JPEG grid and a generator that is fixed by the file."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(data).digest()[:8], "big"))
    rgb = decode_rgb(data)
    top, left = (int(rng.integers(0, max(1, side - MAX_FORGED_SIDE_PX + 1))) // 16 * 16 for side in rgb.shape[:2])
    return np.ascontiguousarray(rgb[top : top + MAX_FORGED_SIDE_PX, left : left + MAX_FORGED_SIDE_PX]), rng


def _blob(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """A soft-edged irregular region of 4 to 20 % of the picture; shape (height, width), 0..1."""
    area = float(rng.uniform(0.04, 0.20)) * height * width
    aspect = float(rng.uniform(0.6, 1.6))
    axes = np.sqrt(area / np.pi * np.array([aspect, 1 / aspect]))
    centre = rng.uniform(0.3, 0.7, 2) * np.array([width, height])
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = 1 + sum(rng.uniform(-0.12, 0.12) * np.sin(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 5))
    outline = centre + np.stack([axes[0] * np.cos(angles), axes[1] * np.sin(angles)], 1) * np.asarray(waves)[:, None]
    mask = np.zeros((height, width), np.float32)
    cv2.fillPoly(mask, [np.rint(outline).astype(np.int32)], 1.0)
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), 0.8), np.float32)


RUNGS: Mapping[str, Callable[[bytes], bytes]] = {
    "native": lambda data: data,
    "laundered": launder,
    "jpeg75": jpeg75,
    "webp": webp,
    "screenshot": screenshot,
}
"""Later histories that keep a picture's label."""

CONTROLS: Mapping[str, Callable[[bytes], bytes]] = {"resaved": resave}
"""Made of authentic pictures only, which they stay."""


def forge(data: bytes) -> bytes:
    """A splice or a copy-move, as the file's digest decides."""
    return (splice, copy_move)[hashlib.sha256(data).digest()[8] % 2](data)


FORGERIES: Mapping[str, Callable[[bytes], bytes]] = {"forged": forge}
"""Forgeries; made of authentic pictures only, their label is "manipulated"."""

COPIES: Mapping[str, Callable[[bytes], bytes]] = {**RUNGS, **CONTROLS, **FORGERIES}
"""All of them by name."""
