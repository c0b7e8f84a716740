"""8x8 orthonormal DCT-II at one grid of blocks, and the count of its zeros at every pixel."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 8
"""Side of a JPEG block in pixels."""

_STRIP_PX = {"cpu": 131_072, "cuda": 8_388_608}
"""Pixels of one strip: on a CPU its planes stay in the cache, on a GPU launches are worth their while."""


def dct_matrix() -> npt.NDArray[np.float64]:
    """Orthonormal DCT-II: row u holds c(u) cos((2x + 1) u pi / 16), shape (8, 8)."""
    u, x = np.mgrid[0:BLOCK, 0:BLOCK]
    scale = np.where(u == 0, math.sqrt(1 / BLOCK), math.sqrt(2 / BLOCK))
    return np.asarray(scale * np.cos((2 * x + 1) * u * math.pi / (2 * BLOCK)))


def block_dct(luma: torch.Tensor, top: int = 0, left: int = 0) -> torch.Tensor:
    """DCT of all whole blocks of the grid with origin (top, left).

    Args:
        luma: float32, shape (H, W).
        top: row of the first block, 0..7.
        left: column of the first block, 0..7.

    Returns:
        float32, shape (block rows, block columns, 8, 8), natural order [vertical, horizontal], not quantised.
    """
    rows, columns = (luma.shape[0] - top) // BLOCK, (luma.shape[1] - left) // BLOCK
    matrix = torch.from_numpy(dct_matrix()).to(luma)
    cut = luma[top : top + rows * BLOCK, left : left + columns * BLOCK]
    horizontal = cut.reshape(-1, BLOCK) @ matrix.T
    blocks = horizontal.reshape(rows, BLOCK, columns, BLOCK).transpose(1, 2)
    return torch.matmul(matrix, blocks)


def _ratios() -> tuple[float, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Factors of `_transform`: even part, odd part (4, 4), and the scale that makes output u orthonormal (8,)."""
    matrix = dct_matrix()
    even = float(matrix[2, 1] / matrix[2, 0])
    odd = matrix[1::2, :4] / matrix[1::2, :1]
    scale = matrix[:, 0].copy()
    return even, odd, scale


_EVEN, _ODD, _SCALE = _ratios()


def _transform(taps: list[torch.Tensor], out: torch.Tensor, work: torch.Tensor) -> None:
    """Unscaled 8-point DCT of eight equally shaped tensors (row-column butterfly; output u times _SCALE[u] is
    orthonormal). `out` has shape (8, ...), `work` (8, ...).
    """
    for j in range(4):
        torch.add(taps[j], taps[7 - j], out=work[j])
        torch.sub(taps[j], taps[7 - j], out=work[4 + j])
    sums, differences = work[:4], work[4:]
    torch.add(sums[0], sums[3], out=out[4])
    torch.add(sums[1], sums[2], out=out[2])
    torch.add(out[4], out[2], out=out[0])
    torch.sub(out[4], out[2], out=out[4])
    torch.sub(sums[0], sums[3], out=out[6])
    torch.sub(sums[1], sums[2], out=sums[1])
    torch.add(out[6], sums[1], alpha=_EVEN, out=out[2])
    out[6].mul_(_EVEN).sub_(sums[1])
    for row in range(4):
        target = out[2 * row + 1]
        torch.add(differences[0], differences[1], alpha=float(_ODD[row, 1]), out=target)
        target.add_(differences[2], alpha=float(_ODD[row, 2]))
        target.add_(differences[3], alpha=float(_ODD[row, 3]))


def _limits() -> npt.NDArray[np.float64]:
    """Half a unit in the scale of `_transform` applied twice, shape (8, 8)."""
    scale = _SCALE.copy()
    scale[6] = dct_matrix()[6, 0] / _EVEN
    return np.asarray(0.5 / np.abs(np.outer(scale, scale)))


def count_zeros(luma: torch.Tensor) -> torch.Tensor:
    """For each pixel, how many of the 63 AC coefficients of the block that begins there are below 0.5 in magnitude.

    Args:
        luma: float32, shape (H, W), H and W >= 8.

    Returns:
        uint8, shape (H - 7, W - 7). About 250 additions per pixel, in strips.
    """
    height, width = luma.shape[0] - BLOCK + 1, luma.shape[1] - BLOCK + 1
    rows = min(height, max(1, _STRIP_PX.get(luma.device.type, 131_072) // luma.shape[1]))
    limits = _limits()
    zeros = torch.zeros((height, width), dtype=torch.uint8, device=luma.device)
    vertical, vertical_work = (torch.empty((BLOCK, rows, luma.shape[1]), device=luma.device) for _ in range(2))
    both, both_work = (torch.empty((BLOCK, rows, width), device=luma.device) for _ in range(2))
    small = torch.empty((rows, width), dtype=torch.bool, device=luma.device)
    for top in range(0, height, rows):
        n = min(rows, height - top)
        _transform([luma[top + j : top + j + n] for j in range(BLOCK)], vertical[:, :n], vertical_work[:, :n])
        total = zeros[top : top + n]
        for v in range(BLOCK):
            taps = [vertical[v, :n, j : j + width] for j in range(BLOCK)]
            _transform(taps, both[:, :n], both_work[:, :n])
            both[:, :n].abs_()
            for u in range(0 if v else 1, BLOCK):
                torch.lt(both[u, :n], float(limits[v, u]), out=small[:n])
                total.add_(small[:n].view(torch.uint8))
    return zeros
