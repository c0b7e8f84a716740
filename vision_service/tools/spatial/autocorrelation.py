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
    picture of N px, whatever it shows, a smooth sky included. Cost: two FFTs.

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
    height, width = grain.shape
    if min(height, width) < 4 * MIN_SHIFT_PX:
        return
    correlation = _autocorrelation(remove_blocking(grain))
    half = correlation[torch.arange(-2, height // 2 + 3, device=grain.device) % height]  # it is even
    ring = half[:-4] + half[4:] + half[2:-2].roll(2, 1) + half[2:-2].roll(-2, 1)
    sharp = half[2:-2] - ring / 4
    near = _circular_distance(height, grain.device)[: height // 2 + 1, None] < MIN_SHIFT_PX
    near = near & (_circular_distance(width, grain.device)[None, :] < MIN_SHIFT_PX)
    sharp.masked_fill_(near, 0.0)
    deviation = max(float(sharp.std()), 1e-12)
    value, index = sharp.flatten().topk(min(PEAKS, sharp.numel()))
    for v, i in zip(value.tolist(), index.tolist(), strict=True):
        y, x = divmod(i, width)
        if v / deviation >= min_z:
            yield Shift(x if x <= width // 2 else x - width, y, v / deviation)


def _autocorrelation(grain: torch.Tensor) -> torch.Tensor:
    """Circular autocorrelation with the power spectrum divided by its own local mean."""
    spectrum = torch.fft.rfft2(grain)
    power = spectrum.real.square() + spectrum.imag.square()
    del spectrum
    rows = avg_pool2d(power[None], (5, 1), stride=1, padding=(2, 0), count_include_pad=False)
    smooth = avg_pool2d(rows, (1, 5), stride=1, padding=(0, 2), count_include_pad=False)[0]
    whitened: torch.Tensor = torch.fft.irfft2(power.div_(smooth.clamp_min_(1e-6)), s=(grain.shape[0], grain.shape[1]))
    return whitened


def remove_blocking(grain: torch.Tensor) -> torch.Tensor:
    """Subtracts the mean of each of the 64 phases of the 8 x 8 grid, which would repeat at every multiple of 8."""
    rows, columns = grain.shape[0] // 8, grain.shape[1] // 8
    mean = grain[: 8 * rows, : 8 * columns].reshape(rows, 8, columns, 8).mean(dim=(0, 2))
    height, width = grain.shape
    return grain - mean.repeat(-(-height // 8), -(-width // 8))[:height, :width]


def _circular_distance(side: int, device: torch.device) -> torch.Tensor:
    lag = torch.arange(side, device=device)
    return torch.minimum(lag, side - lag)
