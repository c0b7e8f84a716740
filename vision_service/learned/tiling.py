"""Cuts pictures into the tiles of a network and puts its maps together again."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from vision_service.learned.card import CELL_PX, NetworkInput

ByteArray = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]

_LUMA = (0.299, 0.587, 0.114)


def tile_places(height: int, width: int, wanted: NetworkInput) -> list[tuple[int, int]]:
    """Places (top, left) of tiles that cover the picture but for the last CELL_PX - 1 rows and columns.

    The last tile of a row or column is moved in to fit; all places are multiples of CELL_PX. No place where the
    picture is smaller than a tile.
    """
    if min(height, width) < wanted.tile_px:
        return []
    tops, lefts = (_starts(length, wanted) for length in (height, width))
    return [(top, left) for top in tops for left in lefts]


def _starts(length: int, wanted: NetworkInput) -> list[int]:
    last = (length - wanted.tile_px) // CELL_PX * CELL_PX
    return sorted({*range(0, last, wanted.stride_px), last})


def spread(places: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    """At most `count` of the places, evenly spread over the list."""
    if len(places) <= count:
        return places
    return [places[i] for i in np.linspace(0, len(places) - 1, count).round().astype(int)]


def cut(rgb: ByteArray, places: list[tuple[int, int]], side_px: int) -> ByteArray:
    """Tiles of a picture (H, W, 3), shape (n, side_px, side_px, 3)."""
    return np.stack([rgb[top : top + side_px, left : left + side_px] for top, left in places])


def prepare(tiles: ByteArray, wanted: NetworkInput) -> torch.Tensor:
    """Tiles (n, S, S, 3) in RGB as the network takes them, float32 (n, C, S, S)."""
    planes = torch.from_numpy(np.ascontiguousarray(tiles)).permute(0, 3, 1, 2).float() / 255
    if wanted.channels == "bgr":
        planes = planes.flip(1)
    elif wanted.channels == "luma":
        planes = (planes * torch.tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    planes = planes * (wanted.high - wanted.low) + wanted.low
    if wanted.mean:
        planes = planes - torch.tensor(wanted.mean)[:, None, None]
    return planes / torch.tensor(wanted.std)[:, None, None] if wanted.std else planes


class MapCanvas:
    """Means of overlapping maps, on cells of CELL_PX.

    Args:
        height: of the picture, px.
        width: of the picture, px.
    """

    def __init__(self, height: int, width: int) -> None:
        shape = (-(-height // CELL_PX), -(-width // CELL_PX))
        self._sums, self._counts = np.zeros(shape, np.float32), np.zeros(shape, np.float32)

    def add(self, cells: torch.Tensor, top: int, left: int, map_stride_px: int) -> None:
        """Adds a tile's map (h, w) whose values stand for map_stride_px px each."""
        pooled = torch.nn.functional.avg_pool2d(cells[None, None], CELL_PX // map_stride_px)[0, 0].numpy()
        rows = slice(top // CELL_PX, top // CELL_PX + pooled.shape[0])
        columns = slice(left // CELL_PX, left // CELL_PX + pooled.shape[1])
        self._sums[rows, columns] += pooled
        self._counts[rows, columns] += 1

    @property
    def covered(self) -> FloatArray:
        """Mean values of the cells that a tile covered, (k,)."""
        return np.asarray(self._sums[self._counts > 0] / self._counts[self._counts > 0], np.float32)

    def values(self, empty: float) -> FloatArray:
        """Mean values (ceil(H / CELL_PX), ceil(W / CELL_PX)); `empty` where no tile came."""
        return np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1), empty).astype(np.float32)
