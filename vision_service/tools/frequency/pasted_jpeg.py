"""Regions that were compressed earlier on another block grid than the picture's, seen after the picture was saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vision_service.domain import MAX_REGIONS, HeatMap, Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.double_jpeg_shifted import block_sums
from vision_service.tools.frequency.grid_votes import GRIDS
from vision_service.tools.frequency.local_periodicity import (
    CELL_PX,
    SLANTED,
    STEPS,
    CellSums,
    Window,
    cell_sums,
    log10_p,
    log10_tests,
    windows,
)

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

BoolArray = npt.NDArray[np.bool_]

_ID = "frequency.pasted_jpeg"
_LEAST_CELLS = 6
"""On either side: a region of two cells and its surroundings."""
_DETECT_LOG10_NFA = -6.0
"""Stricter than the usual -3 because neighbouring blocks are not independent: of 1,050 pictures that were only cropped,
resized, turned or saved again none stayed below -3.5."""
_CONSIDERED_LOG10_NFA = -1.0
_MOST_CHECKED = 8
_SCORE_CAP = 30.0
_LEAST_CONTRAST = 4.0
"""The surroundings must follow the step that many times less than the region."""
_OUTSIDE_Z = 3.09
"""Standard normal at a probability of 1e-3."""


@dataclass(frozen=True, eq=False)
class PastedRegion:
    """A part of the picture with an earlier grid of its own."""

    grid: int
    step: int
    """First quantisation step of the DC, grey levels."""
    log10_nfa: float
    cells: BoolArray
    """Shape (cell rows, cell columns)."""
    agreement: float
    """Mean cos(2 pi DC / step) in the region, 1 on exact multiples."""


def find_regions(luma: torch.Tensor, sums: CellSums) -> tuple[list[PastedRegion], list[PastedRegion]]:
    """Regions with an earlier grid that their surroundings lack, and those whose grid shows outside too (history)."""
    local: list[PastedRegion] = []
    history: list[PastedRegion] = []
    groups: dict[tuple[int, int], list[Window]] = {}
    for window in windows(sums, _CONSIDERED_LOG10_NFA):
        groups.setdefault((window.grid, window.step_index), []).append(window)
    block_values = block_sums(luma) if groups else None
    for (grid, index), members in list(groups.items())[:_MOST_CHECKED]:
        assert block_values is not None
        nfa = _without_repetitions(block_values, sums, members[0])
        if nfa >= 0:
            continue
        cells = np.zeros(sums.counts.shape[1:], dtype=bool)
        for w in members:
            cells[w.row : w.row + w.size, w.column : w.column + w.size] = True
        inside, outside = (_agreement(sums, grid, index, where) for where in (cells, ~_grown(cells)))
        region = PastedRegion(grid, sums.steps[index], nfa, cells, inside[0])
        (history if _shows(outside, inside) else local).append(region)
    return _strongest_of_each_place(local), history


def _agreement(sums: CellSums, grid: int, index: int, where: BoolArray) -> tuple[float, float]:
    """Mean cosine and number of blocks."""
    count = float(sums.counts[grid][where].sum())
    return float(sums.cosines[index, grid][where].sum()) / max(count, 1.0), count


def _shows(outside: tuple[float, float], inside: tuple[float, float]) -> bool:
    """Whether the surroundings follow the step too, or are too small to tell."""
    if outside[1] < inside[1]:
        return True
    z = outside[0] * np.sqrt(2 * outside[1])
    return bool(outside[0] * _LEAST_CONTRAST > inside[0] or z > _OUTSIDE_Z)


def _grown(cells: BoolArray) -> BoolArray:
    padded = np.pad(cells, 1)
    rows = padded[:-2] | padded[1:-1] | padded[2:]
    return np.asarray(rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:])


def _strongest_of_each_place(regions: list[PastedRegion]) -> list[PastedRegion]:
    """Leaves out regions that overlap a stronger one: a comb shows at neighbouring steps as well."""
    kept: list[PastedRegion] = []
    for region in sorted(regions, key=lambda r: r.log10_nfa):
        if not any((region.cells & other.cells).any() for other in kept):
            kept.append(region)
    return kept


def _without_repetitions(block_values: torch.Tensor, sums: CellSums, window: Window) -> float:
    """log10 NFA of a window in which equal blocks count once: drawings repeat a few values on every grid."""
    cosines, counts = np.zeros((GRIDS, 1, 1)), np.zeros((GRIDS, 1, 1))
    side = window.size * CELL_PX
    top, left = window.row * CELL_PX, window.column * CELL_PX
    values = np.asarray(block_values[top : top + side, left : left + side].cpu().numpy())
    for grid in (0, *SLANTED):
        distinct = np.unique(values[grid // BLOCK :: BLOCK, grid % BLOCK :: BLOCK])
        counts[grid] = len(distinct)
        dc = distinct / BLOCK - 128.0 * BLOCK
        cosines[grid] = np.cos(dc * (2 * np.pi / sums.steps[window.step_index])).sum()
    return log10_tests(sums) + float(log10_p(cosines, counts)[window.grid, 0, 0])


def _heat_map(regions: list[PastedRegion], shape: tuple[int, int]) -> HeatMap:
    values = np.zeros((-(-shape[0] // CELL_PX), -(-shape[1] // CELL_PX)), dtype=np.uint8)
    for region in regions:
        values[: region.cells.shape[0], : region.cells.shape[1]][region.cells] = 255
    return HeatMap(values, CELL_PX, "The cell was compressed earlier on another block grid", significant=True)


def _box(cells: BoolArray) -> Region:
    rows, columns = np.flatnonzero(cells.any(axis=1)), np.flatnonzero(cells.any(axis=0))
    height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    return Region(int(columns[0]) * CELL_PX, int(rows[0]) * CELL_PX, width * CELL_PX, height * CELL_PX)


def _measurements(regions: list[PastedRegion], history: list[PastedRegion]) -> tuple[Measurement, ...]:
    numbers = [
        Measurement("pasted_region_count", float(len(regions)), "count"),
        Measurement("grids_all_over", float(len({r.grid for r in history})), "count"),
    ]
    if regions:
        best = regions[0]
        numbers += [
            Measurement("earlier_grid_x", float(best.grid % BLOCK), "px"),
            Measurement("earlier_grid_y", float(best.grid // BLOCK), "px"),
            Measurement("earlier_dc_step", float(best.step), "grey levels"),
            Measurement("agreement_with_step", best.agreement, "1"),
        ]
    return tuple(numbers)


def run(substrate: Substrate) -> Observation:
    """Looks for regions whose DC lies on multiples of a step on a grid of their own, in a picture saved after that.

    frequency.foreign_grid counts coefficients that are zero, which a later save at quality 95 or lower fills; the
    multiples of a step outlive it as long as the step is well above the error of the last save. Blind where the first
    compression was as fine as the last, where the paste is shifted along one axis only or not at all (15 of 64
    shifts), was resized, and for regions below about 96 px. A grid that shows all over is history. Linear in pixels.
    """
    jpeg = substrate.jpeg
    if jpeg is None:
        return not_applicable(
            "not_jpeg", f"the file is {substrate.container.format} without readable JPEG coefficients"
        )
    if min(substrate.height_px, substrate.width_px) < _LEAST_CELLS * CELL_PX + BLOCK:
        size = f"{substrate.width_px} x {substrate.height_px} px"
        return not_applicable("too_small", f"{size} hold too few blocks for a region and its surroundings")
    # The error of the last save hides steps that are no coarser than its own.
    steps = tuple(step for step in STEPS if step > int(jpeg.tables[0][0, 0]))
    if not steps:
        return not_applicable("too_compressed", f"JPEG quality {jpeg.quality} hides earlier compressions")
    regions, history = find_regions(substrate.luma, cell_sums(substrate.luma, steps))
    hits = [region for region in regions if region.log10_nfa < _DETECT_LOG10_NFA]
    nfa = regions[0].log10_nfa if regions else None
    return Observation(
        Outcome.TESTED,
        score=min(-nfa, _SCORE_CAP) if nfa is not None else 0.0,
        score_meaning="-log10 of the number of false alarms of the strongest region with an earlier grid of its own, "
        "at most 30",
        log10_nfa=nfa,
        detected=bool(hits),
        explanation_key=f"{_ID}.{'detected' if hits else 'not_detected'}",
        measurements=_measurements(regions, history),
        regions=tuple(_box(region.cells) for region in hits[:MAX_REGIONS]),
        heat_map=_heat_map(hits, (substrate.height_px, substrate.width_px)) if hits else None,
    )


TEST = Test(
    _ID,
    "Regions that were compressed earlier on another block grid, in a picture that was saved again",
    "after Bianchi, Piva: Image forgery localization via block-grained analysis of JPEG artifacts, TIFS 7(3), 2012",
    run,
)
