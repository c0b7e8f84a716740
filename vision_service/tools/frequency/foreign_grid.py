"""Regions on a JPEG grid other than the picture's (Nikoukhah et al., "ZERO", IPOL 2021, algorithm 2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.domain import MAX_REGIONS, HeatMap, Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.tools.binomial import log10_binomial_tail
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.grid_votes import GRIDS, GridVotes, grid_votes, log10_tests

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

_ID = "frequency.foreign_grid"
_TILE = 32
"""Side in pixels of the tiles in which grids are first looked for."""
_REACH = 9
"""Largest Chebyshev distance in pixels between votes of one region (ZERO's W)."""
_DETECT_LOG10_NFA = -3.0
_SCORE_CAP = 30.0
_LARGEST_SHARE = 0.75
"""A region whose box covers more of the picture than this has no surroundings to differ from."""


@dataclass(frozen=True, eq=False)
class GridRegion:
    """A group of votes for one foreign grid."""

    grid: int
    box: Region
    log10_nfa: float
    vote_count: int
    mask: npt.NDArray[np.bool_]
    """The votes of the region within its box, gaps closed."""


def find_regions(votes: GridVotes, main: int | None) -> list[GridRegion]:
    """All meaningful (NFA < 1) regions on a grid other than `main`, strongest first.

    The grids are first sought in windows of tiles at a lenient threshold; only those found go through the region
    growing of the paper, which changes no number of false alarms, it only spares hopeless grids.
    """
    found: list[GridRegion] = []
    for grid, (top, bottom, left, right) in _candidates(votes.votes).items():
        if grid != main:
            found += _grow(votes.votes[top:bottom, left:right] == grid, grid, top, left, votes.votes.shape)
    return sorted(found, key=lambda region: region.log10_nfa)


def _candidates(votes: npt.NDArray[np.uint8]) -> dict[int, tuple[int, int, int, int]]:
    """Grid -> (top, bottom, left, right) around all windows in which it has more votes than chance gives."""
    counts = _tile_counts(votes)
    boxes: dict[int, tuple[int, int, int, int]] = {}
    span = 1
    while True:
        limit = _least_count(span * span * _TILE * _TILE, GRIDS * counts.shape[0] * counts.shape[1])
        for row, column, grid in np.argwhere(counts >= limit):
            box = (row * _TILE, (row + span) * _TILE, column * _TILE, (column + span) * _TILE)
            old = boxes.get(int(grid), box)
            boxes[int(grid)] = (min(old[0], box[0]), max(old[1], box[1]), min(old[2], box[2]), max(old[3], box[3]))
        if min(counts.shape[:2]) <= span or span == 16:
            break
        counts = counts[span:] + counts[:-span]
        counts = counts[:, span:] + counts[:, :-span]
        span *= 2
    margin = 2 * _TILE
    height, width = votes.shape
    return {
        grid: (max(0, t - margin), min(height, b + margin), max(0, left - margin), min(width, r + margin))
        for grid, (t, b, left, r) in boxes.items()
    }


def _tile_counts(votes: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Votes per tile and grid, shape (tile rows, tile columns, 64); partial tiles at the edges count too."""
    rows, columns = -(-votes.shape[0] // _TILE), -(-votes.shape[1] // _TILE)
    tile_of = (np.arange(votes.shape[1]) // _TILE * 256).astype(np.int32)
    counts = np.empty((rows, columns, GRIDS), dtype=np.int32)
    for row in range(rows):
        keys = votes[row * _TILE : (row + 1) * _TILE] + tile_of
        counts[row] = np.bincount(keys.ravel(), minlength=256 * columns).reshape(columns, 256)[:, :GRIDS]
    return counts


def _least_count(area_px: int, tests: int) -> int:
    """Fewest votes in a window that happen less than once by chance."""
    trials = area_px // GRIDS
    k = np.arange(trials + 2)
    nfa = np.log10(tests) + log10_binomial_tail(k, trials, 1 / GRIDS)
    return int(np.argmax(nfa < 0)) * GRIDS if (nfa < 0).any() else area_px + 1


def _grow(mask: npt.NDArray[np.bool_], grid: int, top: int, left: int, shape: tuple[int, ...]) -> list[GridRegion]:
    tests = log10_tests(shape[0], shape[1])
    smallest = int(np.ceil(GRIDS * tests / np.log10(GRIDS)))
    votes = mask.astype(np.uint8)
    square = np.ones((_REACH, _REACH), np.uint8)
    _, labels, stats, _ = cv2.connectedComponentsWithStats(cv2.dilate(votes, square), connectivity=8)
    sizes = np.bincount(labels[mask], minlength=len(stats))
    regions = []
    for label in np.flatnonzero(sizes >= smallest):
        x, y, width, height = (int(v) for v in stats[label, :4])
        member = (labels[y : y + height, x : x + width] == label) & mask[y : y + height, x : x + width]
        ys, xs = np.flatnonzero(member.any(1)), np.flatnonzero(member.any(0))
        member = member[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        nfa = tests + float(log10_binomial_tail(int(sizes[label]) // GRIDS, member.size // GRIDS, 1 / GRIDS))
        if nfa < 0:
            closed = cv2.morphologyEx(member.astype(np.uint8), cv2.MORPH_CLOSE, square).astype(bool)
            box = Region(left + x + int(xs[0]), top + y + int(ys[0]), member.shape[1], member.shape[0])
            regions.append(GridRegion(grid, box, nfa, int(sizes[label]), closed))
    return regions


def _seen_elsewhere(votes: GridVotes, regions: list[GridRegion], grid: int) -> bool:
    """Whether the grid has significantly many votes outside its own regions, or leaves no outside to speak of.

    A picture that was compressed, cropped and compressed again shows its first grid here and there all over; that is
    its history and no edit.
    """
    outside = np.ones(votes.votes.shape, dtype=bool)
    for region in regions:
        if region.grid == grid:
            box = region.box
            outside[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px] = False
    area = int(outside.sum())
    if area < (1 - _LARGEST_SHARE) * outside.size:
        return True
    count = int((votes.votes[outside] == grid).sum())
    tail = float(log10_binomial_tail(count // GRIDS, area // GRIDS, 1 / GRIDS))
    return bool(np.log10(GRIDS) + tail < _DETECT_LOG10_NFA)


def _heat_map(shape: tuple[int, int], regions: list[GridRegion]) -> HeatMap:
    full = np.zeros(shape, dtype=np.uint8)
    for region in regions:
        box = region.box
        view = full[box.y_px : box.y_px + box.height_px, box.x_px : box.x_px + box.width_px]
        view[region.mask] = 255
    rows, columns = -(-shape[0] // BLOCK), -(-shape[1] // BLOCK)
    padded = np.pad(full, ((0, rows * BLOCK - shape[0]), (0, columns * BLOCK - shape[1])))
    cells = padded.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)) > 64
    values = np.where(cells, 255, 0).astype(np.uint8)
    return HeatMap(values, BLOCK, "The cell lies on a JPEG grid other than the picture's", significant=True)


def _origin(grid: int | None) -> tuple[float, float]:
    return (-1.0, -1.0) if grid is None else (float(grid % BLOCK), float(grid // BLOCK))


def _measurements(votes: GridVotes, main: int | None, regions: list[GridRegion]) -> tuple[Measurement, ...]:
    x, y = _origin(votes.main)
    numbers = [
        Measurement("picture_grid_x", x, "px"),
        Measurement("picture_grid_y", y, "px"),
        Measurement("picture_grid_log10_nfa", max(float(votes.log10_nfa.min()), -1e6), "1"),
        Measurement("picture_grid_vote_share", float(votes.counts.max() / max(int(votes.counts.sum()), 1)), "1"),
        Measurement("foreign_region_count", float(len(regions)), "count"),
    ]
    if regions:
        x, y = _origin(regions[0].grid)
        numbers += [
            Measurement("foreign_grid_x", x, "px"),
            Measurement("foreign_grid_y", y, "px"),
            Measurement("foreign_votes", float(regions[0].vote_count), "count"),
        ]
    return tuple(numbers)


def run(substrate: Substrate) -> Observation:
    """Looks for regions whose JPEG blocks do not line up with those of the picture.

    A foreign grid appears where something was pasted from another JPEG, moved within the picture or cloned. It does
    not appear where the paste lands on the same grid (one time in 64), was resized, or was smoothed by strong
    recompression. A picture whose own grid does not start at the corner was cropped after an earlier compression: a
    measurement, no alarm. Linear in pixels; about 90 ms per megapixel on two CPU cores.
    """
    votes = grid_votes(substrate)
    if votes is None:
        return not_applicable("too_small", f"{substrate.width_px} x {substrate.height_px} px hold too few JPEG blocks")
    main = 0 if substrate.jpeg is not None else votes.main
    regions = find_regions(votes, main)
    if votes.main is not None and votes.main != main:
        regions = [region for region in regions if region.grid != votes.main]
    local = [r for r in regions if not _seen_elsewhere(votes, regions, r.grid)]
    nfa = local[0].log10_nfa if local else min(log10_tests(*votes.votes.shape), 0.0)
    hits = [region for region in local if region.log10_nfa < _DETECT_LOG10_NFA]
    variant = "detected" if hits else "second_grid" if regions and not local else "not_detected"
    return Observation(
        Outcome.TESTED,
        score=min(max(0.0, -nfa), _SCORE_CAP),
        score_meaning="-log10 of the number of false alarms of the strongest region on a foreign JPEG grid, at most 30",
        log10_nfa=nfa if local else None,
        detected=bool(hits),
        explanation_key=f"{_ID}.{variant}",
        measurements=_measurements(votes, main, local),
        regions=tuple(region.box for region in hits[:MAX_REGIONS]),
        heat_map=_heat_map(votes.votes.shape, hits) if hits else None,
    )


TEST = Test(
    _ID,
    "Regions whose JPEG blocks do not line up with the picture's own block grid",
    "Nikoukhah, Anger, Colom, Morel, Grompone von Gioi: ZERO, Image Processing On Line 11, 2021",
    run,
)
