"""What a picture loses when it is quantised again at chosen JPEG qualities, per block; shared by ghosts and ELA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vision_service.jpeg import standard_table
from vision_service.tools.frequency.block_dct import BLOCK, block_dct
from vision_service.tools.frequency.grid_votes import grid_votes
from vision_service.tools.frequency.shared import once_per_picture

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

QUALITIES = (55, 65, 73, 80, 85, 90)
"""Qualities tried; steps of the tables shrink by about a quarter from one to the next."""
_LOW = [(v, u) for v in range(BLOCK) for u in range(BLOCK) if 0 < v + u <= 5]
"""The 20 lowest AC frequencies, which hold nearly all that a ghost shows."""
_STRIP_BLOCKS = 4096


@dataclass(frozen=True, eq=False)
class Losses:
    """Squared differences between a picture and its own recompressions."""

    values: npt.NDArray[np.float32]
    """Squared luma difference per pixel from the 20 lowest AC frequencies of each block, squared grey levels, shape
    (qualities, block rows, block columns)."""
    top: int
    """Row of the first block, 0..7: the picture's own grid."""
    left: int


@once_per_picture
def losses(substrate: Substrate) -> Losses | None:
    """Requantises the luma on the picture's grid; None when a side is shorter than 16 px.

    By Parseval the squared differences of the coefficients are those of the pixels, without a transform back.
    """
    votes = grid_votes(substrate)
    if votes is None:
        return None
    grid = 0 if substrate.jpeg is not None else votes.main or 0
    top, left = grid // BLOCK, grid % BLOCK
    luma = substrate.luma
    rows, columns = (luma.shape[0] - top) // BLOCK, (luma.shape[1] - left) // BLOCK
    v_index, u_index = (np.array(axis) for axis in zip(*_LOW, strict=True))
    tables = torch.from_numpy(np.stack([standard_table(q)[v_index, u_index] for q in QUALITIES])).to(luma)
    result = torch.empty((len(QUALITIES), rows, columns), dtype=torch.float32, device=luma.device)
    step = max(1, _STRIP_BLOCKS // columns)
    for row in range(0, rows, step):
        n = min(step, rows - row)
        coefficients = block_dct(luma[top + row * BLOCK : top + (row + n) * BLOCK, left:])
        coefficients = torch.stack([coefficients[..., v, u] for v, u in _LOW])
        for index, table in enumerate(tables):
            units = coefficients / table[:, None, None]
            units.sub_(units.round()).mul_(table[:, None, None]).square_()
            result[index, row : row + n] = units.sum(dim=0) / BLOCK**2
    return Losses(np.asarray(result.cpu().numpy()), top, left)
