"""noise.cfa: the lattice of the green samples of a Bayer sensor, in the whole picture and in parts of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.binomial import log10_binomial_tail
from vision_service.tools.noise import acontrario

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

CELL_PX = 16
_STRIP_PX = 1024  # a multiple of CELL_PX
_MIN_SIDE_PX = 64
_MIN_CELLS = 100
_MIN_ENERGY = 1.0  # grey levels squared, mean over the four phases; less is rounding
_MIN_SHARE = 0.7  # of cells that agree on one lattice
_MIN_CONTRAST = 0.08  # natural log; resampling and generators stay below 0.06 on the quincunx


@dataclass(frozen=True, eq=False)
class LatticeVotes:
    """Which of the two green lattices each cell looks interpolated on."""

    counted: BoolArray
    """Cells with enough energy to vote, shape (rows, columns) of 16 px cells."""
    odd: BoolArray
    """The pixels with odd x + y are predicted better, as interpolated pixels are."""
    contrast: float
    """Median over cells of ln(energy of even pixels / energy of odd ones); positive: odd pixels are interpolated."""
    imbalance: float
    """Largest median |ln ratio| between two phases of one lattice: 0 for a sensor, large for row or column grids."""

    @property
    def cells(self) -> int:
        """Number of voting cells."""
        return int(self.counted.sum())

    @property
    def share(self) -> float:
        """Share of the votes for the winning lattice, 0.5..1; 0.5 without votes."""
        if self.cells == 0:
            return 0.5
        odd = float(self.odd[self.counted].mean())
        return max(odd, 1 - odd)

    @property
    def log10_nfa(self) -> float:
        """log10 of 2 P(Bin(n, 1/2) >= k), k the votes of the winner."""
        if self.cells == 0:
            return float(np.log10(2.0))
        tail = log10_binomial_tail(self.share * self.cells, self.cells, 0.5)
        return float(np.log10(2.0) + tail)

    @property
    def camera_trace(self) -> bool:
        """Whether the whole picture carries the quincunx of an interpolated green channel."""
        return (
            self.cells >= _MIN_CELLS
            and self.share >= _MIN_SHARE
            and abs(self.contrast) >= max(_MIN_CONTRAST, self.imbalance)
            and self.log10_nfa < acontrario.DETECTION_LOG10_NFA
        )


def lattice_votes(green: torch.Tensor) -> LatticeVotes:
    """Votes of 16 px cells on the lattice of interpolated green samples.

    A demosaiced green channel was measured on one colour of a checkerboard and interpolated from the four neighbours
    on the other, so the error of that prediction is smaller there (Ferrara, Bianchi, De Rosa, Piva, TIFS 2012,
    section III). JPEG's grid and centred resampling treat both colours alike.

    Args:
        green: uint8 or float, shape (H, W), both at least 18.
    """
    rows = (green.shape[0] - 2) // CELL_PX * CELL_PX
    columns = (green.shape[1] - 2) // CELL_PX * CELL_PX
    parts = [_phases(green, top, min(top + _STRIP_PX, rows), columns) for top in range(0, rows, _STRIP_PX)]
    energy = torch.cat(parts, dim=1).cpu().numpy().astype(np.float64)
    counted = energy.mean(axis=0) >= _MIN_ENERGY
    even, odd = energy[0] + energy[3], energy[1] + energy[2]
    logs = np.log(energy[:, counted] + 0.05)
    if logs.shape[1] == 0:
        return LatticeVotes(counted, even > odd, 0.0, 0.0)
    contrast = float(np.median(logs[0] + logs[3] - logs[1] - logs[2]) / 2)
    imbalance = max(abs(float(np.median(logs[0] - logs[3]))), abs(float(np.median(logs[1] - logs[2]))))
    return LatticeVotes(counted, even > odd, contrast, imbalance)


def _phases(green: torch.Tensor, top: int, bottom: int, columns: int) -> torch.Tensor:
    """Mean squared prediction error of the phases (0,0), (0,1), (1,0), (1,1), shape (4, cells, cells)."""
    g = green[top : bottom + 2, : columns + 2].to(torch.float32)
    error = g[1:-1, 1:-1] - (g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:]) / 4
    error = error.square_()
    return torch.stack(
        [functional.avg_pool2d(error[None, i::2, j::2], CELL_PX // 2)[0] for i in (0, 1) for j in (0, 1)]
    )


def foreign_regions(votes: LatticeVotes) -> list[acontrario.CellRegion]:
    """Groups of cells that vote for the lattice that the picture does not have, by rising NFA (p = 1/2)."""
    own_is_odd = votes.contrast > 0
    marked = votes.counted & (votes.odd != own_is_odd)
    tests = acontrario.log10_region_count(*marked.shape)
    return acontrario.strongest_groups(marked, votes.counted, 0.5, log10_tests=tests, min_cells=16)


def _run(substrate: Substrate) -> Observation:
    height, width = substrate.height_px, substrate.width_px
    if min(height, width) < _MIN_SIDE_PX:
        return not_applicable("too_small", f"the short side must have {_MIN_SIDE_PX} px")
    votes = lattice_votes(torch.from_numpy(substrate.rgb[:, :, 1]).to(substrate.device))
    if votes.cells < _MIN_CELLS:
        return not_applicable("no_texture", f"only {votes.cells} cells have texture or noise; {_MIN_CELLS} are needed")
    return _observation(substrate, votes, foreign_regions(votes) if votes.camera_trace else [])


def _observation(substrate: Substrate, votes: LatticeVotes, groups: list[acontrario.CellRegion]) -> Observation:
    found = [g for g in groups if g.log10_nfa < acontrario.DETECTION_LOG10_NFA]
    trace = 10 * (2 * votes.share - 1) if votes.camera_trace else 0.0
    nfa = groups[0].log10_nfa if groups else None
    variant = "detected" if found else "camera_trace" if votes.camera_trace else "not_detected"
    size = (substrate.width_px, substrate.height_px)
    return Observation(
        Outcome.TESTED,
        score=acontrario.score_of(nfa or 0.0) - trace,
        score_meaning="-log10 NFA of the strongest region on a foreign sensor lattice (0..30), less the strength of "
        "the picture's own lattice (0..10); negative: an unbroken camera trace; 0: no trace to judge by",
        log10_nfa=nfa,
        detected=bool(found),
        explanation_key=f"noise.cfa.{variant}",
        measurements=(
            Measurement("lattice_share", votes.share, "1"),
            Measurement("lattice_contrast", abs(votes.contrast), "1"),
            Measurement("phase_imbalance", votes.imbalance, "1"),
            Measurement("global_log10_nfa", votes.log10_nfa, "1"),
            Measurement("voting_cells", float(votes.cells), "count"),
        ),
        regions=tuple(acontrario.to_pixels(g.box, CELL_PX, *size) for g in found),
        heat_map=_heat_map(substrate, found) if found else None,
    )


def _heat_map(substrate: Substrate, found: list[acontrario.CellRegion]) -> HeatMap:
    shape = (-(-substrate.height_px // CELL_PX), -(-substrate.width_px // CELL_PX))
    values = np.zeros(shape, dtype=np.uint8)
    rows, columns = found[0].cells.shape
    for group in found:
        values[:rows, :columns][group.cells] = 255
    meaning = "Bright cells carry the sensor lattice of another position than the rest of the picture."
    return HeatMap(values, CELL_PX, meaning, significant=True)


CFA = Test(
    id="noise.cfa",
    description="The green lattice of a Bayer sensor: present as a camera leaves it, broken in parts, or absent",
    source="after Ferrara, Bianchi, De Rosa, Piva: TIFS 2012; Desolneux, Moisan, Morel: IJCV 2000 (a-contrario)",
    run=_run,
)
