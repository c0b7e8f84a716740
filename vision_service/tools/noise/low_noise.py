"""noise.low_noise_regions: where the quietest blocks of the picture crowd or are missing (Noisesniffer)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

FloatArray = npt.NDArray[np.float64]

BLOCK_PX = 5
"""w: side of the blocks, without overlap so that blocks are independent samples."""
FLAT_SHARE = 0.3
"""n: share of a bin that looks most like noise alone, the candidates V."""
QUIET_SHARE = 0.5
"""m: share of V with the least high-frequency energy, the quiet blocks S."""
_BIN_BLOCKS = 2000
_ROUNDING = 5.0  # grey levels squared, ten coefficients: below it energy is rounding
_NO_NOISE = 1.6  # ten coefficients of deviation 0.4 grey levels; rounding alone has 0.29
_STRIP_BLOCKS = 256
_FREQUENCIES = 5  # T: low frequencies are i + j < T, without the mean
_CLIPPED_LOW, _CLIPPED_HIGH = 8.0, 247.0


@dataclass(frozen=True, eq=False)
class QuietBlocks:
    """Candidate blocks V and the quiet half S of them; arrays of shape (candidates,)."""

    row_px: npt.NDArray[np.int64]
    column_px: npt.NDArray[np.int64]
    quiet: npt.NDArray[np.bool_]
    void_bins: int
    """Bins left out because half of their candidates hold no more than rounding."""
    bins: int


def quiet_blocks(green: torch.Tensor) -> QuietBlocks | None:
    """Finds V and S: blocks of equal brightness compete for the lowest deviation.

    Blocks are sorted by their mean into bins of about 2,000. In each bin V is the share n with the least ratio of
    low- to high-frequency energy (sums of c^2 over 0 < i + j < 5 and over the rest of the orthonormal DCT), and S
    the half of V with the least high-frequency energy. Under the null hypothesis (one noise model for the picture)
    S is a random half of V everywhere. The publication takes n = 0.1 by the low-frequency energy itself, which
    keeps a noisier region out of V before the test can count it; the ratio does not depend on the noise level. Green
    stands for luminance, because the noise of a luminance depends on the colour too and not on itself alone.

    Args:
        green: uint8 or float32, shape (H, W), 0..255; both sides at least 5.

    Returns:
        None when there are fewer blocks than one bin.
    """
    low, high, mean, inside = _energies(green)
    index = torch.nonzero(inside).ravel()
    bins = len(index) // _BIN_BLOCKS
    if bins < 1:
        return None
    index = index[torch.argsort(mean[index], stable=True)]
    size = len(index) // bins
    index = index[: bins * size].reshape(bins, size)
    flat = torch.argsort(low[index] / (high[index] + _ROUNDING), dim=1, stable=True)[:, : int(FLAT_SHARE * size)]
    candidates = index.gather(1, flat)
    order = torch.argsort(high[candidates], dim=1, stable=True)
    quiet = torch.zeros_like(candidates, dtype=torch.bool)
    quiet.scatter_(1, order[:, : int(QUIET_SHARE * candidates.shape[1])], True)
    void = (high[candidates] < _NO_NOISE).double().mean(dim=1) >= QUIET_SHARE
    kept = candidates[~void].ravel().cpu().numpy()
    columns = green.shape[1] // BLOCK_PX
    return QuietBlocks(
        kept // columns * BLOCK_PX,
        kept % columns * BLOCK_PX,
        quiet[~void].ravel().cpu().numpy(),
        int(void.sum()),
        bins,
    )


def _energies(green: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Low- and high-frequency energy, mean and "not clipped" of each whole block, in raster order."""
    rows, columns = (side // BLOCK_PX for side in green.shape)
    low_basis, high_basis = _bases(green.device)
    parts: list[tuple[torch.Tensor, ...]] = []
    for first in range(0, rows, _STRIP_BLOCKS):
        strip = green[first * BLOCK_PX : min(first + _STRIP_BLOCKS, rows) * BLOCK_PX, : columns * BLOCK_PX].to(
            torch.float32
        )
        blocks = strip.reshape(-1, BLOCK_PX, columns, BLOCK_PX).transpose(1, 2).reshape(-1, BLOCK_PX**2)
        mean = blocks.mean(dim=1)
        low = ((blocks @ low_basis) ** 2).sum(dim=1)
        high = ((blocks @ high_basis) ** 2).sum(dim=1)
        inside = (blocks.amin(dim=1) > _CLIPPED_LOW) & (blocks.amax(dim=1) < _CLIPPED_HIGH)
        parts.append((low, high, mean, inside))
    low, high, mean, inside = (torch.cat(columns) for columns in zip(*parts, strict=True))
    return low, high, mean, inside


def _bases(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns of the 2-D DCT with 0 < i + j < T, and those with i + j >= T."""
    k = np.arange(BLOCK_PX)
    dct = np.sqrt(2 / BLOCK_PX) * np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * BLOCK_PX))
    dct[0] /= np.sqrt(2)
    order = k[:, None] + k[None, :]
    atoms = np.einsum("iy,jx->ijyx", dct, dct).reshape(BLOCK_PX, BLOCK_PX, -1)
    low, high = atoms[(order > 0) & (order < _FREQUENCIES)], atoms[order >= _FREQUENCIES]
    low_t, high_t = (torch.tensor(a.T.copy(), dtype=torch.float32, device=device) for a in (low, high))
    return low_t, high_t
