"""A synthetic camera: scenes, a Bayer sensor with noise, demosaicing, tone curve, JPEG.

Gives tests, benchmarks and the demo pictures whose history is known exactly.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Sensor:
    """Noise of a sensor in linear light, signal 0..1: variance = shot * signal + read**2."""

    shot: float = 4e-4
    read: float = 2e-3


def scene(height: int, width: int, rng: np.random.Generator, *, leaves: int = 400) -> FloatArray:
    """A "dead leaves" scene (Lee, Mumford, Huang 2001): occluding textured discs with natural-image statistics.

    Returns:
        Linear light, shape (height, width, 3), 0..1, slightly blurred as a lens would.
    """
    gradient = np.linspace(0.75, 0.35, height, dtype=np.float32)[:, None, None]
    image = np.broadcast_to(gradient * rng.uniform(0.5, 1.0, 3).astype(np.float32), (height, width, 3)).copy()
    grain = _pink(height, width, rng)
    radius_max = max(8.0, min(height, width) / 4)
    for _ in range(leaves):
        radius = float(np.clip(4.0 / np.sqrt(rng.uniform(1e-4, 1.0)), 4, radius_max))
        centre = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        x0, x1 = max(0, int(centre[0] - radius)), min(width, int(centre[0] + radius) + 1)
        y0, y1 = max(0, int(centre[1] - radius)), min(height, int(centre[1] + radius) + 1)
        yy, xx = np.mgrid[y0:y1, x0:x1]
        inside = (xx - centre[0]) ** 2 + (yy - centre[1]) ** 2 <= radius**2
        colour = rng.uniform(0.03, 0.9, 3).astype(np.float32)
        texture = 1.0 + rng.uniform(0.0, 0.5) * np.roll(grain, int(rng.integers(0, width)), axis=1)[y0:y1, x0:x1, None]
        image[y0:y1, x0:x1][inside] = (colour * texture)[inside]
    return np.asarray(np.clip(cv2.GaussianBlur(image, (0, 0), 0.7), 0, 1), dtype=np.float32)


def _pink(height: int, width: int, rng: np.random.Generator) -> FloatArray:
    fy = np.fft.fftfreq(height)[:, None]
    fx = np.fft.rfftfreq(width)[None, :]
    amplitude = 1.0 / np.maximum(np.hypot(fy, fx), 1.0 / max(height, width))
    spectrum = amplitude * np.exp(2j * np.pi * rng.random(amplitude.shape))
    noise = np.fft.irfft2(spectrum, s=(height, width))
    return np.asarray(noise / max(float(noise.std()), 1e-9), dtype=np.float32)


def expose(linear: FloatArray, rng: np.random.Generator, sensor: Sensor | None = None) -> ByteArray:
    """One exposure: RGGB mosaic, shot and read noise, edge-aware demosaicing, sRGB curve, 8 bit.

    Args:
        linear: scene, shape (H, W, 3), 0..1; H and W even.
        rng: source of noise.
        sensor: noise parameters.

    Returns:
        RGB, shape (H, W, 3).
    """
    sensor = sensor or Sensor()
    mosaic = np.empty(linear.shape[:2], dtype=np.float32)
    mosaic[0::2, 0::2] = linear[0::2, 0::2, 0]
    mosaic[0::2, 1::2] = linear[0::2, 1::2, 1]
    mosaic[1::2, 0::2] = linear[1::2, 0::2, 1]
    mosaic[1::2, 1::2] = linear[1::2, 1::2, 2]
    sigma = np.sqrt(sensor.shot * mosaic + sensor.read**2)
    raw = np.clip(mosaic + sigma * rng.standard_normal(mosaic.shape, dtype=np.float32), 0, 1)
    raw16 = np.rint(raw * 65535).astype(np.uint16)
    rgb = cv2.cvtColor(raw16, cv2.COLOR_BayerRG2RGB_EA).astype(np.float32) / 65535
    curve = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * np.power(np.maximum(rgb, 1e-9), 1 / 2.4) - 0.055)
    return np.asarray(np.rint(255 * np.clip(curve, 0, 1)), dtype=np.uint8)


def photo(height: int, width: int, seed: int, sensor: Sensor | None = None) -> ByteArray:
    """A camera-like photograph before compression, shape (height, width, 3); repeatable by its seed."""
    rng = np.random.default_rng(seed)
    return expose(scene(height, width, rng), rng, sensor)


def to_jpeg(rgb: ByteArray, quality: int = 92, *, subsampling: str = "4:2:0", exif: bytes = b"") -> bytes:
    """Encodes as baseline JPEG with libjpeg tables; subsampling "4:4:4", "4:2:2" or "4:2:0"."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality, subsampling=subsampling, exif=exif)
    return buffer.getvalue()


def to_png(rgb: ByteArray) -> bytes:
    """Encodes as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "PNG")
    return buffer.getvalue()


def from_file(data: bytes) -> ByteArray:
    """Decodes a file that this module made."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
