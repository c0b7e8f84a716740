"""Power of pasted_jpeg beside foreign_grid on synthetic pastes: `python -m benchmarks.pasted_jpeg`."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import camera
from vision_service.decode import decode
from vision_service.limits import DecodeLimits
from vision_service.tools.frequency import foreign_grid, pasted_jpeg

SIDE_PX = 160
"""Of the pasted square."""
_PICTURE_PX = 640
FIRST = (50, 60, 70, 75, 80, 85, 90, 95)
LAST = (75, 80, 85, 90, 95, 98)


@dataclass(frozen=True)
class Paste:
    """A forged file."""

    data: bytes
    x: int
    y: int
    grid: tuple[int, int]
    """Origin of the region's earlier grid, x and y, 0..7."""


def paste(seed: int, first: int, last: int) -> Paste:
    """A square from a JPEG of quality `first`, on a random slanted shift, in a photo that is then saved at `last`."""
    rng = np.random.default_rng(seed)
    picture = camera.photo(_PICTURE_PX, _PICTURE_PX, 2 * seed + 1)
    donor = camera.from_file(camera.to_jpeg(camera.photo(_PICTURE_PX, _PICTURE_PX, 2 * seed + 2), first))
    y, x = (int(v) for v in rng.integers(40, _PICTURE_PX - SIDE_PX - 40, 2))
    grid_y, grid_x = (int(v) for v in rng.integers(1, 8, 2))
    from_y, from_x = (8 * int(rng.integers(2, 20)) + (place - grid) % 8 for place, grid in ((y, grid_y), (x, grid_x)))
    picture[y : y + SIDE_PX, x : x + SIDE_PX] = donor[from_y : from_y + SIDE_PX, from_x : from_x + SIDE_PX]
    return Paste(camera.to_jpeg(picture, last), x, y, (grid_x, grid_y))


def main() -> None:
    """Prints the share of pastes found by each test, for each pair of qualities."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=10, help="a pair of qualities")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = Table("first \\ last", *map(str, LAST), title="found by pasted_jpeg / foreign_grid, per cent")
    for first in FIRST:
        cells = []
        for last in LAST:
            substrates = [decode(paste(seed, first, last).data, DecodeLimits()) for seed in range(options.pictures)]
            rates = [np.mean([t.run(s).detected for s in substrates]) for t in (pasted_jpeg.TEST, foreign_grid.TEST)]
            cells.append(" / ".join(f"{100 * rate:.0f}" for rate in rates))
        table.add_row(str(first), *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
