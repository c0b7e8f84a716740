"""Statistics of 8x8 blocks: mean, high-pass noise, low-frequency texture, saturation; in strips, linear in pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

FloatArray = npt.NDArray[np.float32]

BLOCK_PX = 8
_STRIP_PX = 512  # rows analysed at once: bounds the memory on very large pictures
_HALF_NORMAL_MEAN = 0.7978845608028654  # E|x| of a standard normal
_DARK, _BRIGHT = 2.0, 253.0


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    """One value per whole 8x8 block, each of shape (H // 8, W // 8), float32."""

    mean: FloatArray
    """Mean luminance, grey levels."""
    noise: FloatArray
    """Standard deviation of the high-pass residual if it were Gaussian (mean magnitude / 0.798), grey levels."""
    texture: FloatArray
    """Standard deviation of the four 4x4 quadrant means, grey levels; white noise of deviation s gives s / 4."""
    clipped: FloatArray
    """Share of pixels at 0..2 or 253..255, 0..1."""


def block_statistics(luma: torch.Tensor) -> BlockStatistics:
    """Statistics of all whole 8x8 blocks on the grid of the picture's origin.

    The high-pass residual is Immerkaer's difference of two Laplacians, (1,-2,1)^T (1,-2,1) / 6 (CVIU 1996), which
    keeps the deviation of white noise and removes linear and bilinear content.

    Args:
        luma: float32, shape (H, W), 0..255; H and W at least 8.
    """
    height, width = (side // BLOCK_PX * BLOCK_PX for side in luma.shape)
    parts = [_strip(luma, top, min(top + _STRIP_PX, height), width) for top in range(0, height, _STRIP_PX)]
    mean, noise, texture, clipped = (torch.cat(columns).cpu().numpy() for columns in zip(*parts, strict=True))
    return BlockStatistics(mean, noise, texture, clipped)


def _strip(luma: torch.Tensor, top: int, bottom: int, width: int) -> tuple[torch.Tensor, ...]:
    rows = luma[top:bottom, :width]
    quadrant = functional.avg_pool2d(rows[None], 4)[0]
    mean = functional.avg_pool2d(quadrant[None], 2)[0]
    square = functional.avg_pool2d((quadrant * quadrant)[None], 2)[0]
    texture = (square - mean * mean).clamp_min_(0).sqrt_()
    clipped = functional.avg_pool2d(((rows <= _DARK) | (rows >= _BRIGHT)).to(rows.dtype)[None], BLOCK_PX)[0]
    magnitude = functional.avg_pool2d(_high_pass(luma, top, bottom, width)[None], BLOCK_PX)[0]
    return mean, magnitude / _HALF_NORMAL_MEAN, texture, clipped


def _high_pass(luma: torch.Tensor, top: int, bottom: int, width: int) -> torch.Tensor:
    """Magnitude of the residual on rows top..bottom; the picture's edge is reflected."""
    first, last = max(top - 1, 0), min(bottom + 1, luma.shape[0])
    padded = functional.pad(
        luma[None, first:last, :width], (1, 1, 1 - (top - first), 1 - (last - bottom)), mode="reflect"
    )[0]
    rows = padded[:-2] - 2 * padded[1:-1] + padded[2:]
    return (rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]).abs_() / 6
