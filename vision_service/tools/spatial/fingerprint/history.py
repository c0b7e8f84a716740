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
        return float((self.coefficients[:, 1:] != 0).any(dim=1).float().mean())


def read_history(substrate: Substrate) -> History:
    """Reads a picture of at least CELL_PX per side; rows and columns of an incomplete last cell are left out."""
    rows, columns = substrate.height_px // CELL_PX, substrate.width_px // CELL_PX
    step = max(1, math.ceil(math.sqrt(rows * columns / MAX_CELLS)))
    patches = _patches(substrate.luma[: rows * CELL_PX, : columns * CELL_PX], step)
    if substrate.jpeg is not None:
        coefficients = _stored(substrate.jpeg.luma, rows, columns, step).to(substrate.device)
        table = torch.from_numpy(substrate.jpeg.tables[0].ravel().astype(np.float32)).clamp(min=1)
    else:
        coefficients = _transformed(patches)
        table = torch.ones(64)
    return History(_joined(coefficients), table[None].to(substrate.device), _joined(_seams(patches)), step)


def _patches(luma: torch.Tensor, step: int) -> torch.Tensor:
    """Chosen cells with their halo, (R, C, _SIDE, _SIDE)."""
    whole = padded(luma[None])[0]
    return whole.unfold(0, _SIDE, CELL_PX * step).unfold(1, _SIDE, CELL_PX * step)


def _seams(patches: torch.Tensor) -> torch.Tensor:
    rows, columns = patches.shape[:2]
    return seams(patches.reshape(rows * columns, _SIDE, _SIDE)).view(rows, columns, 16, _BLOCKS, _BLOCKS)


def _stored(luma: npt.NDArray[np.int16], rows: int, columns: int, step: int) -> torch.Tensor:
    """Coefficients of a file for the chosen cells, (R, C, 64, 2, 2)."""
    blocks = luma[: rows * _BLOCKS, : columns * _BLOCKS].reshape(rows, _BLOCKS, columns, _BLOCKS, 64)
    chosen = blocks[::step, :, ::step].transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(np.ascontiguousarray(chosen, np.float32))


def _transformed(patches: torch.Tensor) -> torch.Tensor:
    """Rounded coefficients of pixels for the chosen cells, (R, C, 64, 2, 2)."""
    before, after = HALO_PX
    inner = patches[:, :, before:-after, before:-after] - 128.0
    rows, columns = inner.shape[:2]
    blocks = inner.reshape(rows, columns, _BLOCKS, BLOCK_PX, _BLOCKS, BLOCK_PX).permute(0, 1, 2, 4, 3, 5)
    matrix = _cosines().to(blocks.device)
    made = (matrix @ blocks @ matrix.T).round_()
    return made.flatten(4).permute(0, 1, 4, 2, 3)


@cache
def _cosines() -> torch.Tensor:
    """The orthonormal DCT-II, (8, 8)."""
    place = torch.arange(BLOCK_PX, dtype=torch.float64)
    matrix = torch.cos((2 * place[None] + 1) * place[:, None] * math.pi / (2 * BLOCK_PX)) / 2
    matrix[0] /= math.sqrt(2)
    return matrix.float()


def _joined(cells: torch.Tensor) -> torch.Tensor:
    """(R, C, K, 2, 2) to (1, K, 2 R, 2 C)."""
    rows, columns, channels = cells.shape[:3]
    return cells.permute(2, 0, 3, 1, 4).reshape(1, channels, rows * _BLOCKS, columns * _BLOCKS)
