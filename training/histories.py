"""Random later histories that both sides of a pair share: resampling, filters, compression, in random order."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

ByteArray = npt.NDArray[np.uint8]
Step = Callable[[ByteArray], ByteArray]

_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)
_LEAST_SCALE = 0.3


def draw_history(rng: np.random.Generator) -> tuple[float, list[Step]]:
    """The scale of a random history and its steps; the steps are fixed, so that they do the same to both sides.

    Half of the histories compress before they resample, most compress after it.
    """
    scale = 1.0 if rng.random() < 0.35 else float(_LEAST_SCALE ** rng.random())
    steps: list[Step] = []
    if rng.random() < 0.35:
        steps.append(_compression(rng))
    if rng.random() < 0.25:
        steps.append(filtering(rng))
    if scale != 1.0:
        steps.append(_resampling(scale, rng))
    if rng.random() < 0.2:
        steps.append(filtering(rng))
    if rng.random() < 0.2:
        steps.append(_tone(rng))
    if rng.random() < 0.8:
        steps.append(_compression(rng))
    return scale, steps


def _resampling(scale: float, rng: np.random.Generator) -> Step:
    kind = _FILTERS[int(rng.integers(len(_FILTERS)))]
    if kind != cv2.INTER_AREA and rng.random() < 0.7:  # viewers and sites filter before they shrink: Pillow does
        pillow = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)[int(rng.integers(3))]

        def shrink(picture: ByteArray) -> ByteArray:
            size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
            return np.asarray(Image.fromarray(picture).resize(size, pillow))

        return shrink
    return lambda picture: np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=kind), np.uint8)


def _compression(rng: np.random.Generator) -> Step:
    quality = int(rng.integers(60, 96))
    if rng.random() < 0.08:
        return lambda picture: _saved(picture, "WEBP", quality=quality, method=0)
    subsampling = ("4:2:0", "4:4:4")[int(rng.random() < 0.3)]
    return lambda picture: _saved(picture, "JPEG", quality=quality, subsampling=subsampling)


def _saved(picture: ByteArray, file_format: str, **options: int | str) -> ByteArray:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, file_format, **options)
    return np.asarray(Image.open(buffer).convert("RGB"))


def filtering(rng: np.random.Generator) -> Step:
    """A blur, a sharpening, a denoising or noise of random strength."""
    kind = int(rng.integers(5))
    strength = float(rng.random())
    if kind == 0:
        return lambda picture: np.asarray(cv2.GaussianBlur(picture, (0, 0), 0.3 + 0.7 * strength), np.uint8)
    if kind == 1:
        return lambda picture: _sharpened(picture, 0.2 + 1.0 * strength)
    if kind == 2:
        return lambda picture: np.asarray(cv2.bilateralFilter(picture, 5, 8 + 25 * strength, 2.0), np.uint8)
    if kind == 3:
        return lambda picture: np.asarray(cv2.medianBlur(picture, 3), np.uint8)
    seed, deviation = int(rng.integers(2**31)), 0.5 + 4.0 * strength
    return lambda picture: _noisy(picture, deviation, seed)


def _sharpened(picture: ByteArray, amount: float) -> ByteArray:
    blurred = cv2.GaussianBlur(picture, (0, 0), 1.0)
    return np.asarray(cv2.addWeighted(picture, 1 + amount, blurred, -amount, 0), np.uint8)


def _noisy(picture: ByteArray, deviation: float, seed: int) -> ByteArray:
    noise = np.random.default_rng(seed).standard_normal(picture.shape, dtype=np.float32)
    return np.clip(np.rint(picture + deviation * noise), 0, 255).astype(np.uint8)


def _tone(rng: np.random.Generator) -> Step:
    gamma, gain = float(rng.uniform(0.7, 1.4)), float(rng.uniform(0.8, 1.2))
    table = np.clip(255 * gain * (np.arange(256) / 255) ** gamma, 0, 255).round().astype(np.uint8)
    return lambda picture: np.asarray(cv2.LUT(picture, table), np.uint8)
