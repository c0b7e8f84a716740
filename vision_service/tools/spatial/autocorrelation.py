"""Shifts at which a picture's fine grain resembles itself, from autocorrelations of the whitened residual."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d

MIN_SHIFT_PX = 16
"""Shorter shifts compare the picture with its own surroundings."""
TILE_PX = 4096
"""Larger pictures are taken in tiles of at most this side, so that memory does not grow with them; the keypoints
look for copies from one tile to another."""
PEAKS = 64
_REACH = 2
"""Half width in frequencies of the local mean of the power spectrum."""
_ROWS, _COLUMNS = 256, 256
"""Of one strip; rows are a multiple of 8."""


@dataclass(frozen=True)
class Shift:
    """A displacement in pixels with the height of its peak."""

    dx_px: int
    dy_px: int
    z: float
    """Peak height in standard deviations of the autocorrelation away from the origin."""


def similar_shifts(grain: torch.Tensor, most: int, min_z: float) -> list[Shift]:
    """Sharp peaks of the spectrally whitened circular autocorrelation, highest first.

    A region of A px pasted elsewhere unchanged raises the value at its shift to about A / sqrt(N) deviations in a
    picture of N px, whatever it shows, a smooth sky included. Cost: one and a half FFTs. A few per cent of the rows and
    columns at the lower right are left out, so that the lengths suit the FFT.

    Args:
        grain: whitened residual, float32, shape (H, W).
        most: most shifts returned; of two opposite ones only the first.
        min_z: lowest peak.
    """
    found = sorted((s for tile in _tiles(grain) for s in _peaks(tile, min_z)), key=lambda s: -s.z)
    kept: list[Shift] = []
    for shift in found:
        if len(kept) < most and not any(_same(shift, other) for other in kept):
            kept.append(shift)
    return kept


def _same(a: Shift, b: Shift) -> bool:
    return any(max(abs(a.dx_px - sign * b.dx_px), abs(a.dy_px - sign * b.dy_px)) <= 2 for sign in (1, -1))


def _tiles(grain: torch.Tensor) -> Iterator[torch.Tensor]:
    rows, columns = (-(-side // TILE_PX) for side in grain.shape)
    for band in grain.chunk(rows, dim=0):
        yield from band.chunk(columns, dim=1)


def _peaks(grain: torch.Tensor, min_z: float) -> Iterator[Shift]:
    height, width = (_fast_length(side) for side in grain.shape)
    if min(height, width) < 4 * MIN_SHIFT_PX:
        return
    half = _with_neighbours(_autocorrelation(grain[:height, :width]), height)
    sharp = half[2:-2] - (half[:-4] + half[4:] + half[2:-2].roll(2, 1) + half[2:-2].roll(-2, 1)) / 4
    del half
    near = _circular_distance(width, grain.device) < MIN_SHIFT_PX
    sharp[:MIN_SHIFT_PX, near] = 0.0
    deviation = max(float(sharp.std()), 1e-12)
    value, index = sharp.flatten().topk(min(PEAKS, sharp.numel()))
    for v, i in zip(value.tolist(), index.tolist(), strict=True):
        y, x = divmod(i, width)
        if v / deviation >= min_z:
            yield Shift(x if x <= width // 2 else x - width, y, v / deviation)


def _fast_length(side: int) -> int:
    """The longest length up to `side` without a prime factor above 7, which Fourier transforms are quick for."""
    for length in range(side, 1, -1):
        rest = length
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
    return side


def _autocorrelation(grain: torch.Tensor) -> torch.Tensor:
    """Circular autocorrelation with the power spectrum divided by its own local mean, blocking removed.

    The power spectrum is real, so that one real transform along the columns gives the half of the lags that matters.

    Args:
        grain: float32, shape (H, W).

    Returns:
        Lags 0..H // 2 by 0..W - 1, shape (H // 2 + 1, W).
    """
    height, width = grain.shape
    power = _power(grain)
    lags = torch.empty((height // 2 + 1, power.shape[1]), dtype=torch.complex64, device=grain.device)
    for left in range(0, power.shape[1], _COLUMNS):
        first = max(left - _REACH, 0)
        part = power[:, first : left + _COLUMNS + _REACH]
        inner = slice(left - first, left - first + _COLUMNS)
        whitened = part[:, inner] / _local_mean(part)[:, inner].clamp_min_(1e-6)
        lags[:, left : left + _COLUMNS] = torch.fft.rfft(whitened, dim=0, norm="forward")
    del power
    whole: torch.Tensor = torch.fft.irfft(lags.conj(), n=width, dim=1)
    return whole


def _power(grain: torch.Tensor) -> torch.Tensor:
    """Power spectrum of the grain without blocking, shape (H, W // 2 + 1), in strips to spare memory."""
    height, width = grain.shape
    blocking = blocking_mean(grain).repeat(_ROWS // 8, -(-width // 8))[:, :width]
    spectrum = torch.empty((height, width // 2 + 1), dtype=torch.complex64, device=grain.device)
    for top in range(0, height, _ROWS):
        strip = grain[top : top + _ROWS]
        spectrum[top : top + _ROWS] = torch.fft.rfft(strip - blocking[: strip.shape[0]], dim=1)
    power = torch.empty(spectrum.shape, device=grain.device)
    for left in range(0, power.shape[1], _COLUMNS):
        part = torch.fft.fft(spectrum[:, left : left + _COLUMNS], dim=0)
        power[:, left : left + _COLUMNS] = part.real.square().add_(part.imag.square())
    return power


def _local_mean(power: torch.Tensor) -> torch.Tensor:
    """Mean over 5 x 5 values, fewer at the borders."""
    side = 2 * _REACH + 1
    rows = avg_pool2d(power[None], (side, 1), stride=1, padding=(_REACH, 0), count_include_pad=False)
    return avg_pool2d(rows, (1, side), stride=1, padding=(0, _REACH), count_include_pad=False)[0]


def _with_neighbours(half: torch.Tensor, height: int) -> torch.Tensor:
    """Lags -2..H // 2 + 2 from lags 0..H // 2, by the symmetry r(-y, -x) = r(y, x)."""
    mirrored = half[[2, 1, *(height - lag for lag in (height // 2 + 1, height // 2 + 2))]].flip(1).roll(1, 1)
    return torch.cat([mirrored[:2], half, mirrored[2:]])


def blocking_mean(grain: torch.Tensor) -> torch.Tensor:
    """Mean of each of the 64 phases of the 8 x 8 grid, which would repeat at every multiple of 8; shape (8, 8)."""
    rows, columns = grain.shape[0] // 8, grain.shape[1] // 8
    return grain[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).mean(dim=(0, 2))


def _circular_distance(side: int, device: torch.device) -> torch.Tensor:
    lag = torch.arange(side, device=device)
    return torch.minimum(lag, side - lag)
