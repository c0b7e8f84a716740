"""Strength of the 8 x 8 blocking across the picture: weaker where content came in after the compression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate

ID = "spatial.grid_inconsistency"
CELL_PX = 8
POOL_CELLS = 9
CLIP = 8.0
"""Grey levels; steps above belong to the scene."""
MIN_SIDE_PX = 160
MIN_CONTRAST = 0.02
"""Least mean excess of the grid's steps over the others, grey levels."""
MIN_Z = 6.0
STRIP_PX = 1024


@dataclass(frozen=True)
class Grid:
    """Where the picture's own grid lies along one axis and how clearly."""

    phase: int
    """0..7: the first row or column of a block, modulo 8."""
    contrast: float
    """Mean excess step at the block borders, grey levels."""
    z: float
    """The same in standard errors of the other seven phases."""


def run(substrate: Substrate) -> Observation:
    """Maps the strength of the picture's own blocking grid against its median (after Li, Yuan, Yu 2009, and CAGI).

    Texture, saturation and smooth areas change the strength in genuine pictures too, so the test never reports a
    detection: it gives a map and a number. Complexity: linear in pixels, in strips.
    """
    height, width = substrate.height_px, substrate.width_px
    if min(height, width) < MIN_SIDE_PX:
        return not_applicable(
            "too_small", f"the picture has {width} x {height} px; blocking is compared from {MIN_SIDE_PX} px a side"
        )
    excess = (step_excess(substrate.luma), step_excess(substrate.luma.T))
    grids = [main_grid(e) for e in excess]
    if min(g.contrast for g in grids) < MIN_CONTRAST or min(g.z for g in grids) < MIN_Z:
        weakest = min(grids, key=lambda g: g.z)
        return not_applicable(
            "no_jpeg_grid",
            f"the picture shows no blocking grid to compare with (strength {weakest.contrast:.3f} grey levels, "
            f"{weakest.z:.1f} standard errors)",
        )
    strength = _strength(excess[0], grids[0]) + _strength(excess[1], grids[1]).T
    return _observe(strength, grids, substrate)


def step_excess(luma: torch.Tensor) -> torch.Tensor:
    """How much the step from column x - 1 to x exceeds the mean of the steps beside it, summed over 8 rows.

    Args:
        luma: float32, shape (H, W), 0..255.

    Returns:
        float32, shape (H // 8, W), grey levels; 0 in the first two and the last column.
    """
    height, width = luma.shape[0] // CELL_PX * CELL_PX, luma.shape[1]
    excess = torch.zeros((height // CELL_PX, width), device=luma.device)
    for top in range(0, height, STRIP_PX):
        strip = luma[top : min(top + STRIP_PX, height)]
        step = (strip[:, 1:] - strip[:, :-1]).abs_().clamp_max_(CLIP)
        here = step[:, 1:-1] - (step[:, :-2] + step[:, 2:]) / 2
        rows = here.reshape(-1, CELL_PX, here.shape[1]).sum(dim=1)
        excess[top // CELL_PX : top // CELL_PX + rows.shape[0], 2:-1] = rows
    return excess


def main_grid(excess: torch.Tensor) -> Grid:
    """The phase whose steps exceed the others most."""
    columns = excess.mean(dim=0)[2:-1].cpu().numpy().astype(np.float64) / CELL_PX
    phases = (np.arange(len(columns)) + 2) % CELL_PX
    means = np.array([columns[phases == p].mean() for p in range(CELL_PX)])
    phase = int(means.argmax())
    # the two phases beside the grid hold its mirror image with half the height
    others = np.isin((phases - phase) % CELL_PX, (2, 3, 4, 5, 6))
    error = float(columns[others].std()) / np.sqrt((phases == phase).sum())
    contrast = float(means[phase] - columns[others].mean())
    return Grid(phase, contrast, contrast / max(float(error), 1e-6))


def _strength(excess: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Excess at the grid over that at the phases half a block away, per cell, shape (H // 8, W // 8)."""
    columns = excess.shape[1] // CELL_PX
    phases = excess[:, : columns * CELL_PX].reshape(-1, columns, CELL_PX) / CELL_PX
    others = phases[:, :, [(grid.phase + k) % CELL_PX for k in (2, 3, 4, 5, 6)]].mean(dim=2)
    strength: torch.Tensor = phases[:, :, grid.phase] - others
    return strength


def _observe(strength: torch.Tensor, grids: list[Grid], substrate: Substrate) -> Observation:
    pooled = avg_pool2d(strength[None], POOL_CELLS, stride=1, padding=POOL_CELLS // 2, count_include_pad=False)[0]
    local = pooled.cpu().numpy()
    low, median, high = (float(q) for q in np.quantile(local, [0.05, 0.5, 0.95]))
    spread = 1.4826 * float(np.median(np.abs(local - median))) + 0.01
    deficit = (median - local) / spread
    values = np.zeros((-(-substrate.height_px // CELL_PX), -(-substrate.width_px // CELL_PX)), np.uint8)
    values[: local.shape[0], : local.shape[1]] = np.clip(255 * deficit / 6, 0, 255)
    return Observation(
        Outcome.TESTED,
        # both tails widen with texture; only a deficit that the other tail does not mirror tells of an edit
        score=max(0.0, (median - low) / spread - (high - median) / spread),
        score_meaning="how much further the blocking falls short than it exceeds its median (robust deviations)",
        explanation_key=f"{ID}.not_detected",
        measurements=(
            Measurement("grid_strength_median", median, "grey levels"),
            Measurement("grid_strength_5_percent", low, "grey levels"),
            Measurement("grid_strength_95_percent", high, "grey levels"),
            Measurement("grid_phase_x", float(grids[0].phase), "px"),
            Measurement("grid_phase_y", float(grids[1].phase), "px"),
        ),
        heat_map=HeatMap(values, CELL_PX, "The JPEG blocking is weaker here than in the rest of the picture."),
    )


TEST = Test(
    id=ID,
    description="Maps where JPEG blocking is weaker than in the rest of the picture; proves nothing alone.",
    source="Li, Yuan, Yu: Signal Processing 89(9), 2009; Iakovidou et al.: JVCIR 54, 2018",
    run=run,
)
