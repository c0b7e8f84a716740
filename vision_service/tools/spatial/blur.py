"""Edge spread across the picture: a pasted object may be sharper or softer than its surroundings."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import avg_pool2d, pad

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate

ID = "spatial.blur_inconsistency"
CELL_PX = 8
INNER_CELLS = 5
RING_CELLS = 21
MIN_SIDE_PX = 96
MIN_EDGE_CELLS = 64
EDGE = 12.0
"""Least gradient of an edge, grey levels per pixel: four deviations of strong sensor noise."""
REBLUR_PX = 1.0
STRIP_PX = 128


def run(substrate: Substrate) -> Observation:
    """Measures the spread of edges by re-blurring (Zhuo, Sim 2011) and compares each place with its surroundings.

    At a step edge of spread s the squared gradient sums to a multiple of 1 / s across the edge, so blurring by s0
    lowers that sum by R = sqrt(1 + s0^2 / s^2), hence s = s0 / sqrt(R^2 - 1). Depth of field, motion and portrait
    modes change the spread of genuine pictures at least as much as edits do, so the test never reports a detection:
    it gives a map and a number.
    Complexity: linear in pixels, in strips.
    """
    if min(substrate.height_px, substrate.width_px) < MIN_SIDE_PX:
        return not_applicable(
            "too_small",
            f"the picture has {substrate.width_px} x {substrate.height_px} px; the spread of edges is compared from "
            f"{MIN_SIDE_PX} px a side",
        )
    sharp, soft = edge_energies(substrate.luma)
    edges = int((sharp > 0).sum())
    if edges < MIN_EDGE_CELLS:
        return not_applicable("no_texture", f"only {edges} cells of 8 px hold an edge; {MIN_EDGE_CELLS} are needed")
    inner, outer = (_log_spread(_pool(sharp, n), _pool(soft, n)) for n in (INNER_CELLS, RING_CELLS))
    known = _pool((sharp > 0).float(), INNER_CELLS) >= 3
    contrast = torch.where(known, inner - outer, torch.zeros_like(inner)).cpu().numpy()
    return _observe(contrast, inner[known].cpu().numpy(), substrate)


def edge_energies(luma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared gradient at edges before and after re-blurring, summed over cells.

    Args:
        luma: float32, shape (H, W), 0..255.

    Returns:
        Two tensors of shape (H // 8, W // 8), squared grey levels per square pixel; 0 in cells without edges.
    """
    parts = []
    height = luma.shape[0] // CELL_PX * CELL_PX
    width = luma.shape[1] // CELL_PX * CELL_PX
    for top in range(0, height, STRIP_PX):
        bottom = min(top + STRIP_PX, height)
        first = max(top - CELL_PX, 0)
        strip = luma[first : bottom + CELL_PX, :width]
        before = _gradient_energy(strip)
        after = _gradient_energy(_blur(strip))
        edge = before > EDGE**2
        rows = slice(top - first, bottom - first)
        cells = [avg_pool2d(torch.where(edge, e, 0.0)[None, rows], CELL_PX)[0] for e in (before, after)]
        parts.append(torch.stack(cells) * CELL_PX**2)
    sharp, soft = torch.cat(parts, dim=1)
    return sharp, soft


def _gradient_energy(luma: torch.Tensor) -> torch.Tensor:
    padded = pad(luma[None], (1, 1, 1, 1), mode="replicate")[0]
    dx = padded[1:-1, 2:] - padded[1:-1, :-2]
    dy = padded[2:, 1:-1] - padded[:-2, 1:-1]
    return (dx.square() + dy.square()) / 4


def _blur(luma: torch.Tensor) -> torch.Tensor:
    """Binomial filter 1 4 6 4 1 both ways, a Gaussian of standard deviation `REBLUR_PX`."""
    padded = pad(luma[None], (2, 2, 2, 2), mode="replicate")[0]
    for _ in range(4):
        padded = padded[1:] + padded[:-1]
    for _ in range(4):
        padded = padded[:, 1:] + padded[:, :-1]
    return padded / 256


def _pool(cells: torch.Tensor, side: int) -> torch.Tensor:
    return avg_pool2d(cells[None], side, stride=1, padding=side // 2, divisor_override=1)[0]


def _log_spread(sharp: torch.Tensor, soft: torch.Tensor) -> torch.Tensor:
    """Natural log of the edge spread in pixels, within 0.2..5 px."""
    ratio = sharp / soft.clamp_min(1e-3)
    spread = REBLUR_PX / (ratio.square() - 1.0).clamp_min(REBLUR_PX**2 / 25.0).sqrt()
    return spread.clamp(0.2, 5.0).log()


def _observe(contrast: npt.NDArray[np.float32], known: npt.NDArray[np.float32], substrate: Substrate) -> Observation:
    strongest = float(np.quantile(np.abs(contrast), 0.99))
    low, median, high = (float(math.exp(q)) for q in np.quantile(known, [0.1, 0.5, 0.9]))
    values = np.zeros((-(-substrate.height_px // CELL_PX), -(-substrate.width_px // CELL_PX)), np.uint8)
    values[: contrast.shape[0], : contrast.shape[1]] = np.clip(255 * np.abs(contrast) / math.log(4), 0, 255)
    return Observation(
        Outcome.TESTED,
        score=strongest,
        score_meaning="99th percentile of |log(edge spread here / edge spread around)|",
        explanation_key=f"{ID}.not_detected",
        measurements=(
            Measurement("edge_spread_median", median, "px"),
            Measurement("edge_spread_10_percent", low, "px"),
            Measurement("edge_spread_90_percent", high, "px"),
        ),
        heat_map=HeatMap(values, CELL_PX, "Edges here are sharper or softer than those around them."),
    )


TEST = Test(
    id=ID,
    description="Maps where edges are sharper or softer than their surroundings; proves nothing alone.",
    source="Zhuo, Sim: Pattern Recognition 44(9), 2011",
    run=run,
)
