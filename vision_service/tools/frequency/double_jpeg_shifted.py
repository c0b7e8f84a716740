"""An earlier compression on another grid, by the integer periodicity of the DC (Bianchi & Piva, IEEE TIFS 2012)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.grid_votes import GRIDS
from vision_service.tools.frequency.shared import once_per_picture

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

FloatArray = npt.NDArray[np.float64]

_ID = "frequency.double_jpeg_shifted"
_LEAST_BLOCKS = 1024
_STEPS = np.arange(2, 33)
"""Candidates for the first quantisation step of the DC, grey levels."""
_SUMS = 64 * 255 + 1
_SCORE_CAP = 30.0
_FOUND_LOG10_NFA = -3.0


@dataclass(frozen=True, eq=False)
class Periodicity:
    """How periodic the DC is at each grid and step."""

    power: FloatArray
    """N |mean exp(2 pi i DC / Q)|^2, shape (64 grids, steps); about exponential under H0."""
    log10_nfa: FloatArray
    """Same shape; 0 for the picture's own grid, and where that explains the period."""


def block_sums(luma: torch.Tensor) -> torch.Tensor:
    """Sum of the 8 x 8 px from each pixel on, int32, shape (H - 7, W - 7); an eighth of the DC plus 1024."""
    values = luma.to(torch.int32)
    for step in (1, 2, 4):
        values = values[step:] + values[:-step]
    for step in (1, 2, 4):
        values = values[:, step:] + values[:, :-step]
    return values


@once_per_picture
def periodicity(substrate: Substrate) -> Periodicity:
    """The periodicity map of a picture with sides of 16 px or more.

    Blocks that repeat their left neighbour's sum, flat ones, tell nothing about a step and are left out. The
    background of each step is the median over the grids: what the picture's content alone gives. A block that is
    shifted along one axis only is made of two whole halves of the picture's own blocks, whose sums are multiples of
    fractions of the picture's own DC step; there its divisors are left out.
    """
    sums = block_sums(substrate.luma)
    steps = torch.from_numpy(_STEPS.astype(np.float64)).to(sums.device)
    phase = torch.arange(_SUMS, device=sums.device, dtype=torch.float64)[None] / (8.0 * steps[:, None])
    waves = torch.cat([torch.cos(2 * torch.pi * phase), torch.sin(2 * torch.pi * phase)])
    histograms = torch.empty((_SUMS, GRIDS), dtype=torch.float64, device=sums.device)
    for grid in range(GRIDS):
        values = sums[grid // BLOCK :: BLOCK, grid % BLOCK :: BLOCK]
        kept = values[:, 1:][(values[:, 1:] - values[:, :-1]).abs() > 2 * BLOCK]
        histograms[:, grid] = torch.bincount(kept, minlength=_SUMS)
    totals = histograms.sum(dim=0).clamp(min=1)
    waved = (waves @ histograms).reshape(2, len(_STEPS), GRIDS)
    power = np.asarray((waved.square().sum(dim=0) / totals).T.cpu().numpy())
    background = np.maximum(np.median(power, axis=0), np.log(2.0))
    tests = np.log10((GRIDS - 1) * len(_STEPS))
    nfa = tests - np.log(2.0) * power / background / np.log(10.0)
    nfa[0] = 0.0
    if substrate.jpeg is not None:
        along_one_axis = [*range(BLOCK), *range(0, GRIDS, BLOCK)]
        nfa[np.ix_(along_one_axis, int(substrate.jpeg.tables[0][0, 0]) % _STEPS == 0)] = 0.0
    return Periodicity(power, nfa)


def run(substrate: Substrate) -> Observation:
    """Looks for an earlier JPEG compression of the whole picture on a grid that is not its own.

    What it finds is history, not an edit: a picture that was cropped and saved again, as sites do, shows it. It is
    therefore never a detection; parts with a grid of their own are the business of frequency.foreign_grid. Seen
    only where the last compression was finer than the first. Linear in pixels.
    """
    if substrate.jpeg is None:
        return not_applicable(
            "not_jpeg", f"the file is {substrate.container.format} without readable JPEG coefficients"
        )
    if substrate.height_px * substrate.width_px < _LEAST_BLOCKS * GRIDS or min(substrate.rgb.shape[:2]) < 2 * BLOCK:
        size = f"{substrate.width_px} x {substrate.height_px} px"
        return not_applicable("too_small", f"{size} hold fewer than {_LEAST_BLOCKS} blocks")
    found = periodicity(substrate)
    grid, step = (int(i) for i in np.unravel_index(np.argmin(found.log10_nfa), found.log10_nfa.shape))
    nfa = float(found.log10_nfa[grid, step])
    # What the picture's own grid does to the others it does to mirror images alike; an earlier grid has no twin.
    mirrors = [((-(grid // BLOCK)) % BLOCK) * BLOCK + grid % BLOCK, grid // BLOCK * BLOCK + (-(grid % BLOCK)) % BLOCK]
    twin = min((float(found.log10_nfa[m, step]) for m in mirrors if m != grid), default=0.0)
    alone = min(nfa - min(twin, 0.0), 0.0)
    history = alone < _FOUND_LOG10_NFA
    numbers: tuple[Measurement, ...] = (Measurement("earlier_grid_log10_nfa", alone, "1"),)
    if history:
        numbers += (
            Measurement("earlier_grid_x", float(grid % BLOCK), "px"),
            Measurement("earlier_grid_y", float(grid // BLOCK), "px"),
            Measurement("earlier_dc_step", float(_STEPS[step]), "grey levels"),
        )
    return Observation(
        Outcome.TESTED,
        score=min(max(0.0, -alone), _SCORE_CAP),
        score_meaning="-log10 of the number of false alarms of an earlier block grid, over its mirrors, at most 30",
        log10_nfa=alone,
        explanation_key=f"{_ID}.{'history' if history else 'not_detected'}",
        measurements=numbers,
    )


TEST = Test(
    _ID,
    "An earlier compression of the whole picture on another block grid: cropped and saved again",
    "Bianchi, Piva: Image forgery localization via block-grained analysis of JPEG artifacts, IEEE TIFS 7(3), 2012",
    run,
)
