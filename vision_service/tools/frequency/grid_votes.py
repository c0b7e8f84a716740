"""Votes of pixels for the origin of a JPEG grid (Nikoukhah et al., "ZERO", IPOL 2021, algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vision_service.tools.binomial import log10_binomial_tail
from vision_service.tools.frequency.block_dct import BLOCK, count_zeros
from vision_service.tools.frequency.shared import once_per_picture

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

GRIDS = BLOCK * BLOCK
"""Number of possible grid origins."""
NO_VOTE = 255
"""Value of a pixel that votes for no grid: a tie, a constant block, or the border of 7 px."""
_STRIP_PX = 512
"""Rows voted on at once: bounds the memory on very large pictures."""


@dataclass(frozen=True, eq=False)
class GridVotes:
    """Which grid each pixel votes for."""

    votes: npt.NDArray[np.uint8]
    """Shape (H, W): (x mod 8) + 8 (y mod 8) of the origin of the pixel's best block, or NO_VOTE."""
    counts: npt.NDArray[np.int64]
    """Votes per grid, shape (64,)."""
    log10_nfa: npt.NDArray[np.float64]
    """Number of false alarms per grid over the whole picture, shape (64,)."""

    @property
    def main(self) -> int | None:
        """The grid of the whole picture: the most voted, when it is meaningful (NFA < 1)."""
        best = int(np.argmax(self.counts))
        return best if self.log10_nfa[best] < 0 else None


def log10_tests(height: int, width: int) -> float:
    """log10 of the number of tests of ZERO: 64 grids and (X Y)^2 rectangles, with the paper's further factor of 64."""
    return 2.0 * float(np.log10(float(GRIDS) * height * width))


@once_per_picture
def grid_votes(substrate: Substrate) -> GridVotes | None:
    """The votes of a picture; None when a side is shorter than 16 px."""
    if min(substrate.height_px, substrate.width_px) < 2 * BLOCK:
        return None
    votes = vote_map(substrate.luma)
    counts = np.bincount(votes.ravel(), minlength=NO_VOTE + 1)[:GRIDS].astype(np.int64)
    height, width = votes.shape
    trials = -(-height * width // GRIDS)
    nfa = log10_tests(height, width) + log10_binomial_tail(counts // GRIDS, trials, 1 / GRIDS)
    return GridVotes(votes, counts, nfa)


def vote_map(luma: torch.Tensor) -> npt.NDArray[np.uint8]:
    """Each pixel votes for the grid of the one block, of the 64 that cover it, with most zero coefficients.

    The 64 blocks have 64 different grids, so the number of zeros and the grid packed into one integer make both the
    winner and a tie readable from two maximum filters (one with the grids numbered backwards).

    Args:
        luma: float32, shape (H, W), sides >= 16.

    Returns:
        uint8, shape (H, W), see `GridVotes.votes`.
    """
    height, width = luma.shape
    votes = torch.full(luma.shape, NO_VOTE, dtype=torch.uint8, device=luma.device)
    margin = BLOCK - 1
    zeros = torch.empty((0, width - margin), dtype=torch.uint8, device=luma.device)
    for first in range(0, height - margin, _STRIP_PX):  # multiples of 8, so that the grids keep their numbers
        last = min(first + _STRIP_PX, height - margin)
        start = max(first - BLOCK, 0)  # rows of the strip before, which share windows with this one
        zeros = torch.cat([zeros[zeros.shape[0] - (first - start) :], count_zeros(luma[first : last + margin])])
        votes[start + margin : last, margin : width - margin] = _strip_votes(zeros, luma[start : last + margin])
    return np.asarray(votes.cpu().numpy())


def _strip_votes(zeros: torch.Tensor, luma: torch.Tensor) -> torch.Tensor:
    """Votes of the pixels of a strip that all their 64 blocks lie in.

    Args:
        zeros: `count_zeros` of the strip, shape (h - 7, W - 7).
        luma: the strip, shape (h, W); its first row is a multiple of 8.

    Returns:
        uint8, shape (h - 14, W - 14).
    """
    packed = zeros.to(torch.int16)
    rows, columns = (torch.arange(n, device=luma.device, dtype=torch.int16) % BLOCK for n in packed.shape)
    grid = rows[:, None] * BLOCK + columns[None, :]
    forward = _window_maximum(packed * (2 * GRIDS) + grid * 2 + _constant_along_an_axis(luma).to(torch.int16))
    backward = _window_maximum(packed.mul_(GRIDS).add_(GRIDS - 1 - grid))
    winner = forward.bitwise_right_shift(1).bitwise_and_(GRIDS - 1)
    unique = winner == (GRIDS - 1) - backward.bitwise_and_(GRIDS - 1)
    valid = unique & forward.bitwise_and_(1).eq(0)
    return torch.where(valid, winner, NO_VOTE).to(torch.uint8)


def _window_maximum(values: torch.Tensor) -> torch.Tensor:
    """Maximum over 8 x 8 windows, shape (H - 7, W - 7), by doubling."""
    for step in (1, 2, 4):
        values = torch.maximum(values[step:], values[:-step])
    for step in (1, 2, 4):
        values = torch.maximum(values[:, step:], values[:, :-step])
    return values


def _constant_along_an_axis(luma: torch.Tensor) -> torch.Tensor:
    """Whether the block at each origin is constant along x or along y, bool, shape (H - 7, W - 7)."""
    pixels = luma.to(torch.uint8)
    across = _window_any(pixels[:, 1:] != pixels[:, :-1], BLOCK, BLOCK - 1)
    down = _window_any(pixels[1:] != pixels[:-1], BLOCK - 1, BLOCK)
    return ~(across & down)


def _window_any(flags: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Whether any flag is set in each rows x columns window; both 7 or 8."""
    for step in (1, 2, rows - 4):
        flags = flags[step:] | flags[:-step]
    for step in (1, 2, columns - 4):
        flags = flags[:, step:] | flags[:, :-step]
    return flags
