"""noise.prnu: the photo-response non-uniformity of one known sensor, where its fingerprint is supplied."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pywt
from scipy import fft, ndimage, stats

from serving.errors import MaifsError, Reason
from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate

FloatArray = npt.NDArray[np.float32]

PCE_THRESHOLD = 60.0
"""A match above this peak-to-correlation energy: false alarms near 1e-5 on a million Flickr images of 6,896 cameras
(Goljan, Fridrich, Filler: SPIE 7254, 2009)."""

_NOISE_SIGMA = 3.0  # grey levels: the white noise that the denoiser assumes, as in the publications
_WAVELET, _LEVELS, _WINDOWS = "db8", 4, (3, 5, 7, 9)
_PEAK_RADIUS = 5  # the neighbourhood left out of the energy is 11 x 11
_MIN_SIDE_PX = 128
_MAX_PIXELS = 24_000_000  # of the fingerprint: bounds memory and time of the transforms


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The multiplicative pattern K of one sensor, estimated from luminance."""

    pattern: FloatArray
    """Shape (H, W) of the sensor's full-size stored pictures, float32, dimensionless (about 1 %), finite."""
    camera: str = ""
    """Name shown in reports."""


@dataclass(frozen=True)
class Match:
    """The correlation peak of a residual with a fingerprint."""

    pce: float
    """Peak-to-correlation energy, with the sign of the peak."""
    row_shift_px: int
    """Row of the fingerprint under the picture's first row."""
    column_shift_px: int
    shifts: int = 1
    """Shifts that were compared."""

    @property
    def log10_nfa(self) -> float:
        """Expected number of peaks like this one, log10, were the residual white noise of another sensor.

        A correlation divided by the root of its plane's energy is then standard normal, so that a shift reaches the
        peak with P(Z >= sqrt(PCE)). Traces that sensors share (Goljan et al. 2009) are not in this null.
        """
        tail = float(stats.norm.logsf(math.copysign(math.sqrt(abs(self.pce)), self.pce)))
        return math.log10(self.shifts) + tail / math.log(10)


def noise_residual(luma: npt.NDArray[np.float32], sigma: float = _NOISE_SIGMA) -> FloatArray:
    """W = I - F(I), F the wavelet-domain Wiener filter of Mihcak, Kozintsev, Ramchandran (ICASSP 1999).

    The local variance of each detail coefficient is the least over windows of 3, 5, 7 and 9. Row and column means
    are removed, for they are marks of the make of sensor, not of the one sensor (Chen et al. 2008, section III.B).

    Args:
        luma: shape (H, W), 0..255, both sides at least 16.
        sigma: deviation of the noise to be removed, grey levels.
    """
    height, width = luma.shape
    padded = np.pad(luma, ((0, -height % 16), (0, -width % 16)), mode="symmetric")
    levels = min(_LEVELS, pywt.dwtn_max_level(padded.shape, _WAVELET) or 1)
    coarse, *details = pywt.wavedec2(padded, _WAVELET, mode="periodization", level=levels)
    noise = [tuple(_noise_part(band, sigma) for band in bands) for bands in details]
    restored = pywt.waverec2([np.zeros_like(coarse), *noise], _WAVELET, mode="periodization")
    return _zero_mean(np.asarray(restored[:height, :width], dtype=np.float32))


def _noise_part(band: FloatArray, sigma: float) -> FloatArray:
    energy = band * band
    local = np.min([ndimage.uniform_filter(energy, size=window, mode="reflect") for window in _WINDOWS], axis=0)
    signal = np.maximum(local - sigma**2, 0.0)
    return np.asarray(band * (sigma**2 / (signal + sigma**2)), dtype=np.float32)


def _zero_mean(residual: FloatArray) -> FloatArray:
    residual = residual - residual.mean(axis=0, keepdims=True)
    return np.asarray(residual - residual.mean(axis=1, keepdims=True), dtype=np.float32)


def estimate_fingerprint(pictures: Iterable[npt.NDArray[np.float32]], camera: str = "") -> Fingerprint:
    """Maximum-likelihood estimate K = sum(W_i I_i) / sum(I_i^2) (Chen, Fridrich, Goljan, Lukas: TIFS 2008, eq. 6).

    Args:
        pictures: luminances of one camera, equal shape (H, W), 0..255, never rotated, resized or cropped; twenty
            flat, bright, unsaturated ones or fifty natural ones give a usable fingerprint.
        camera: name for reports.

    Raises:
        ValueError: no picture, or unequal shapes.
    """
    numerator: npt.NDArray[np.float64] | None = None
    denominator: npt.NDArray[np.float64] | None = None
    for luma in pictures:
        weight = np.where(luma < 250, luma, 0.0).astype(np.float64)  # saturated pixels carry no pattern
        if numerator is None or denominator is None:
            numerator, denominator = np.zeros(luma.shape), np.zeros(luma.shape)
        if luma.shape != numerator.shape:
            raise ValueError(f"pictures of {numerator.shape} and {luma.shape} cannot share a fingerprint")
        numerator += noise_residual(luma) * weight
        denominator += weight * weight
    if numerator is None or denominator is None:
        raise ValueError("no picture to estimate a fingerprint from")
    return Fingerprint(_zero_mean((numerator / np.maximum(denominator, 1.0)).astype(np.float32)), camera)


def match(residual: FloatArray, luma: FloatArray, fingerprint: Fingerprint) -> Match:
    """Peak-to-correlation energy of a residual and I * K (Goljan 2008).

    A picture of the fingerprint's size is compared at shift zero; a smaller one is taken for a crop and searched for
    at all shifts. The cost is three transforms of the fingerprint's size.

    Args:
        residual: shape (h, w), from `noise_residual`.
        luma: the picture, same shape; no side larger than the fingerprint's.
        fingerprint: the sensor's.
    """
    pattern = fingerprint.pattern
    if residual.shape == pattern.shape:
        plane = _correlation(residual, luma * pattern)
        return Match(_pce(plane, 0, 0), 0, 0)
    window = np.zeros(pattern.shape, dtype=np.float32)
    window[: residual.shape[0], : residual.shape[1]] = residual * luma
    plane = _correlation(pattern, window)
    rows, columns = (full - part + 1 for full, part in zip(pattern.shape, residual.shape, strict=True))
    row, column = np.unravel_index(int(plane[:rows, :columns].argmax()), (rows, columns))
    return Match(_pce(plane, int(row), int(column)), int(row), int(column), rows * columns)


def _correlation(a: FloatArray, b: FloatArray) -> FloatArray:
    """Circular cross-correlation c(s) = sum a(x + s) b(x) of the zero-mean arrays."""
    product = fft.rfft2(a - a.mean()) * np.conj(fft.rfft2(b - b.mean()))
    return np.asarray(fft.irfft2(product, s=a.shape), dtype=np.float32)


def _pce(plane: FloatArray, row: int, column: int) -> float:
    centred = np.roll(plane, (_PEAK_RADIUS - row, _PEAK_RADIUS - column), axis=(0, 1)).astype(np.float64)
    peak = float(centred[_PEAK_RADIUS, _PEAK_RADIUS])
    side = 2 * _PEAK_RADIUS + 1
    rest = float((centred**2).sum() - (centred[:side, :side] ** 2).sum()) / max(centred.size - side**2, 1)
    return float(np.sign(peak) * peak * peak / rest) if rest > 0 else 0.0


def load_fingerprint(path: Path) -> Fingerprint:
    """Reads a fingerprint from .npy, or from .npz with "pattern" and optionally "camera"; pickles are refused.

    Raises:
        MaifsError: FILE_UNREADABLE when the file cannot be read; INVALID_CONFIG when it is no fingerprint.
    """
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            pattern = loaded if isinstance(loaded, np.ndarray) else loaded["pattern"]
            camera = "" if isinstance(loaded, np.ndarray) or "camera" not in loaded else str(loaded["camera"])
    except OSError as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE, f"The fingerprint {path} cannot be read: {error}.", "Check the path and its rights."
        ) from error
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise _not_a_fingerprint(path, str(error)) from error
    if pattern.ndim != 2 or not np.issubdtype(pattern.dtype, np.floating) or not np.isfinite(pattern).all():
        raise _not_a_fingerprint(path, f"shape {pattern.shape}, {pattern.dtype}")
    if min(pattern.shape) < _MIN_SIDE_PX or pattern.size > _MAX_PIXELS:
        raise _not_a_fingerprint(path, f"{pattern.shape} px; sides from {_MIN_SIDE_PX}, at most {_MAX_PIXELS:,} px")
    return Fingerprint(pattern.astype(np.float32), camera)


def _not_a_fingerprint(path: Path, detail: str) -> MaifsError:
    return MaifsError(
        Reason.INVALID_CONFIG,
        f"{path} is not a sensor fingerprint: {detail}.",
        'Give a finite two-dimensional float array as .npy, or as "pattern" in an .npz.',
    )


def prnu_test(fingerprint: Fingerprint | None = None) -> Test:
    """The test against one reference fingerprint; without one it is never applicable."""
    return Test(
        id="noise.prnu",
        description="Whether the picture carries the noise pattern of the sensor whose fingerprint was supplied",
        source="Chen, Fridrich, Goljan, Lukas: TIFS 2008; Goljan: IWDW 2008 (peak-to-correlation energy)",
        run=lambda substrate: _run(substrate, fingerprint),
    )


def _run(substrate: Substrate, fingerprint: Fingerprint | None) -> Observation:
    if fingerprint is None:
        return not_applicable("no_reference", "no sensor fingerprint is configured to compare with")
    height, width = substrate.height_px, substrate.width_px
    full_height, full_width = fingerprint.pattern.shape
    if min(height, width) < _MIN_SIDE_PX:
        return not_applicable("too_small", f"the short side must have {_MIN_SIDE_PX} px")
    if height > full_height or width > full_width:
        return not_applicable(
            "size_mismatch", f"{width} x {height} px do not fit in the fingerprint's {full_width} x {full_height} px"
        )
    luma = substrate.luma.cpu().numpy()
    found = match(noise_residual(luma), luma, fingerprint)
    detected = found.pce > PCE_THRESHOLD
    return Observation(
        Outcome.TESTED,
        score=-float(np.log10(max(found.pce, 1.0))),
        score_meaning="-log10 of the peak-to-correlation energy with the reference sensor, 0 when there is no match; "
        "negative: the picture comes from that sensor",
        detected=detected,
        log10_nfa=found.log10_nfa,
        explanation_key=f"noise.prnu.{'detected' if detected else 'not_detected'}",
        measurements=(
            Measurement("peak_to_correlation_energy", found.pce, "1"),
            Measurement("row_shift", float(found.row_shift_px), "px"),
            Measurement("column_shift", float(found.column_shift_px), "px"),
        ),
    )


PRNU = prnu_test()
