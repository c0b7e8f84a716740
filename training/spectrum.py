"""Takes from a reconstruction what its power spectrum alone would tell."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]

_RINGS = 128
_LEAST_GAIN, _MOST_GAIN = 0.3, 4.0


def with_spectrum_of(made: ByteArray, wanted: ByteArray) -> ByteArray:
    """`made` with the radial power spectrum of `wanted`: what is left to see is not that the decoder is softer.

    Args:
        made: shape (H, W, 3).
        wanted: same shape.
    """
    height, width = made.shape[:2]
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]) * 2 * _RINGS
    ring = np.minimum(radius, _RINGS + _RINGS // 3).astype(np.int64)
    spectrum = np.fft.rfft2(made.astype(np.float32), axes=(0, 1))
    target = np.fft.rfft2(wanted.astype(np.float32), axes=(0, 1))
    counts = np.bincount(ring.ravel())
    gain = np.sqrt(_power(target, ring, counts) / np.maximum(_power(spectrum, ring, counts), 1e-6))
    restored = np.fft.irfft2(
        spectrum * np.clip(gain, _LEAST_GAIN, _MOST_GAIN)[ring][..., None], s=(height, width), axes=(0, 1)
    )
    return np.clip(np.rint(restored), 0, 255).astype(np.uint8)


def _power(
    spectrum: npt.NDArray[np.complex128], ring: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    energy = (np.abs(spectrum) ** 2).mean(axis=2)
    return np.asarray(
        np.bincount(ring.ravel(), energy.ravel()) / np.maximum(counts, 1),
    )
