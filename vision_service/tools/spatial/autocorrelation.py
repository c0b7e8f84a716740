"""Shifts at which a picture's fine grain resembles itself, from one autocorrelation of the whitened residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d, max_pool2d

MIN_SHIFT_PX = 16
CLIP = 2.0


@dataclass(frozen=True)
class Shift:
    """A displacement in pixels with the height of its peak."""

    dx_px: int
    dy_px: int
    z: float
    """Peak height in standard deviations of the autocorrelation far from structure."""


def whitened_residual(luma: torch.Tensor) -> torch.Tensor:
    """High-pass residual divided by its local deviation and clipped, so that no edge outweighs the grain.

    Args:
        luma: float32, shape (H, W), 0..255, both sides at least 9.

    Returns:
        float32, shape (H, W), within +-2, 0 where the picture is flat.
    """
    y = luma[None, None]
    residual = y - _box(y, 3)
    deviation = _box(residual * residual, 9).clamp_min_(0).sqrt_()
    return (residual / (deviation + 0.25)).clamp_(-CLIP, CLIP)[0, 0]


def _box(y: torch.Tensor, side: int) -> torch.Tensor:
    return avg_pool2d(y, side, stride=1, padding=side // 2, count_include_pad=False)


def remove_blocking(residual: torch.Tensor) -> torch.Tensor:
    """Subtracts the mean of each of the 64 phases of the 8 x 8 grid, which would repeat at every multiple of 8."""
    mean = torch.stack([torch.stack([residual[i::8, j::8].mean() for j in range(8)]) for i in range(8)])
    height, width = residual.shape
    tiled = mean.repeat(-(-height // 8), -(-width // 8))[:height, :width]
    return residual - tiled


def similar_shifts(residual: torch.Tensor, most: int, min_z: float) -> list[Shift]:
    """Peaks of the phase-whitened circular autocorrelation, highest first.

    A region of A px pasted elsewhere unchanged raises the value at its shift to A / sqrt(N) deviations in a picture
    of N px, whatever it shows, a smooth sky included. Cost: two FFTs.

    Args:
        residual: output of `whitened_residual`.
        most: most peaks.
        min_z: lowest peak.
    """
    height, width = residual.shape
    spectrum = torch.fft.rfft2(remove_blocking(residual))
    power = spectrum.real**2 + spectrum.imag**2
    smooth = _box(power[None, None], 5)[0, 0]
    correlation = torch.fft.irfft2(power / smooth.clamp_min(1e-6), s=(height, width))
    peaky = correlation - _ring_mean(correlation)
    dy, dx = (_circular_distance(side, residual.device) for side in (height, width))
    near = (dy[:, None] < MIN_SHIFT_PX) & (dx[None, :] < MIN_SHIFT_PX)
    scale = peaky[~near].std().clamp_min(1e-12)
    z = (peaky / scale).masked_fill(near, 0.0)
    half = z[: height // 2 + 1]  # the autocorrelation is even
    local = max_pool2d(half[None, None], 5, stride=1, padding=2)[0, 0]
    value, index = torch.where(half >= local, half, torch.zeros_like(half)).flatten().topk(min(2 * most, half.numel()))
    found: list[Shift] = []
    for v, i in zip(value.tolist(), index.tolist(), strict=True):
        y, x = divmod(i, width)
        shift = (x if x <= width // 2 else x - width, y)
        if v < min_z or len(found) == most:
            break
        if (-shift[0], -shift[1]) not in {(s.dx_px, s.dy_px) for s in found}:
            found.append(Shift(shift[0], shift[1], v))
    return found


def _circular_distance(side: int, device: torch.device) -> torch.Tensor:
    lag = torch.arange(side, device=device)
    return torch.minimum(lag, side - lag)


def _ring_mean(correlation: torch.Tensor) -> torch.Tensor:
    c = correlation[None, None]
    return ((25 * _box(c, 5) - c) / 24)[0, 0]
