"""What the network of spatial.fingerprint reads of a picture: coefficients, table and seams of its cells."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch

from vision_service.learned.history_network import BLOCK_PX, CELL_PX, HALO_PX, padded, seams
from vision_service.substrate import Substrate

MAX_CELLS = 8192
"""Most cells that are read, 2.1 MP of pixels: of larger pictures every second, third, .. cell of a row and column."""

_SIDE = CELL_PX + sum(HALO_PX)
_BLOCKS = CELL_PX // BLOCK_PX


@dataclass(frozen=True, eq=False)
class History:
    """The network's input for one picture."""

    coefficients: torch.Tensor
    """Quantised luma DCT coefficients, float32, (1, 64, 2 rows, 2 columns) of cells, frequency 8 v + u."""
    table: torch.Tensor
    """Their quantisation table (1, 64); ones where the file is no JPEG."""
    phases: torch.Tensor
    """`seams` of the cells, (1, 16, 2 rows, 2 columns)."""
    step: int
    """Every how many cells of a row or column one was read."""

    @property
    def textured_share(self) -> float:
        """Share of blocks with an AC coefficient that is not 0."""
        return float((self.coefficients[:, 1:].abs().amax(dim=1) > 0).float().mean())


def read_history(substrate: Substrate) -> History:
    """Reads a picture of at least CELL_PX per side; rows and columns of an incomplete last cell are left out."""
    rows, columns = substrate.height_px // CELL_PX, substrate.width_px // CELL_PX
    step = max(1, math.ceil(math.sqrt(rows * columns / MAX_CELLS)))
    luma = padded(substrate.luma[None, : rows * CELL_PX, : columns * CELL_PX])
    if substrate.jpeg is not None:
        coefficients = _stored(substrate.jpeg.luma, rows, columns, step).to(substrate.device)
        table = torch.from_numpy(substrate.jpeg.tables[0].ravel().astype(np.float32)).clamp(min=1)
    else:
        coefficients = _transformed(_cells(luma[0], step))
        table = torch.ones(64)
    channels_first = coefficients.permute(2, 0, 1)[None].float().contiguous()
    return History(channels_first, table[None].to(substrate.device), _phases(luma, step), step)


def _cells(luma: torch.Tensor, step: int) -> torch.Tensor:
    """Chosen cells of padded grey levels with their halo, (R, C, _SIDE, _SIDE)."""
    return luma.unfold(0, _SIDE, CELL_PX * step).unfold(1, _SIDE, CELL_PX * step)


def _phases(luma: torch.Tensor, step: int) -> torch.Tensor:
    """`seams` of the chosen cells of padded grey levels (1, H + 3, W + 3), (1, 16, 2 R, 2 C)."""
    if step == 1:
        return seams(luma)
    cells = _cells(luma[0], step)
    rows, columns = cells.shape[:2]
    each = seams(cells.reshape(rows * columns, _SIDE, _SIDE)).view(rows, columns, 16, _BLOCKS, _BLOCKS)
    return each.permute(2, 0, 3, 1, 4).reshape(1, 16, rows * _BLOCKS, columns * _BLOCKS)


def _stored(luma: npt.NDArray[np.int16], rows: int, columns: int, step: int) -> torch.Tensor:
    """Coefficients of a file for the chosen cells, int16, (2 R, 2 C, 64)."""
    blocks = luma[: rows * _BLOCKS, : columns * _BLOCKS].reshape(rows, _BLOCKS, columns, _BLOCKS, 64)
    chosen = np.ascontiguousarray(blocks[::step, :, ::step])
    return torch.from_numpy(chosen).reshape(chosen.shape[0] * _BLOCKS, -1, 64)


def _transformed(cells: torch.Tensor) -> torch.Tensor:
    """Rounded coefficients of pixels for the chosen cells, (2 R, 2 C, 64)."""
    before, after = HALO_PX
    inner = cells[:, :, before:-after, before:-after] - 128.0
    rows, columns = inner.shape[:2]
    blocks = inner.reshape(rows, columns, _BLOCKS, BLOCK_PX, _BLOCKS, BLOCK_PX).permute(0, 2, 1, 4, 3, 5)
    matrix = _cosines().to(blocks.device)
    return (matrix @ blocks @ matrix.T).round_().reshape(rows * _BLOCKS, columns * _BLOCKS, 64)


@cache
def _cosines() -> torch.Tensor:
    """The orthonormal DCT-II, (8, 8)."""
    place = torch.arange(BLOCK_PX, dtype=torch.float64)
    matrix = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / (2 * BLOCK_PX)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float()
