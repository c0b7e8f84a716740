"""Periodic peaks in the spectrum that up-sampling layers of image generators leave (Bammey, "Synthbuster", 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.special import gammaincc

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.grid_votes import grid_votes

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

FloatArray = npt.NDArray[np.float64]

_ID = "frequency.upsampling_peaks"
_TILE = 256
_TILES_A_SIDE = 4
"""At most 16 tiles are analysed, spread over the picture."""
_NEIGHBOURHOOD = 13
_LOWEST = _TILE // 16
"""Bins below on both axes are picture content."""
_DETECT_LOG10_NFA = -8.0
"""Stricter than the usual -3: textures are no white noise."""
_SCORE_CAP = 30.0


def mean_spectrum(luma: torch.Tensor, *, without_period_8: bool) -> tuple[FloatArray, int]:
    """Mean power spectrum of the cross difference over tiles, relative to its local median.

    Args:
        luma: float32, shape (H, W), sides >= 257.
        without_period_8: take off the mean of each phase modulo 8, the trace of a JPEG grid.

    Returns:
        Ratio to the local mean power under H0, shape (256, 256), and the number of tiles. With T tiles a bin is
        Gamma(T, 1/T) under H0.
    """
    tiles = torch.stack([_residual(luma, top, left) for top, left in _places(luma.shape)])
    if without_period_8:
        count = _TILE // BLOCK
        phases = tiles.reshape(-1, count, BLOCK, count, BLOCK)
        tiles = (phases - phases.mean(dim=(1, 3), keepdim=True)).reshape(tiles.shape)
    window = torch.hann_window(_TILE, device=luma.device)
    power = torch.fft.fft2(tiles * window[:, None] * window).abs().square()
    power = power / power.mean(dim=(1, 2), keepdim=True).clamp(min=1e-9)
    mean = np.asarray(power.mean(dim=0).cpu().numpy(), dtype=np.float64)
    return mean / _background(mean), tiles.shape[0]


def _background(power: FloatArray) -> FloatArray:
    """Local median of the log power over 13 x 13 bins, cyclic, in steps of a sixteenth of a natural log unit."""
    margin = _NEIGHBOURHOOD // 2
    levels = np.clip(np.rint(16 * np.log(power + 1e-12)) + 200, 0, 255).astype(np.uint8)
    median = cv2.medianBlur(np.pad(levels, margin, mode="wrap"), _NEIGHBOURHOOD)[margin:-margin, margin:-margin]
    return np.asarray(np.exp((median.astype(np.float64) - 200) / 16))


def _places(shape: torch.Size) -> list[tuple[int, int]]:
    """Corners of the tiles: multiples of 8, not overlapping, at most four a side."""
    sides = []
    for length in shape:
        count = min(_TILES_A_SIDE, (length - 1) // _TILE)
        sides.append([int(v) // BLOCK * BLOCK for v in np.linspace(0, length - 1 - _TILE, count)])
    return [(top, left) for top in sides[0] for left in sides[1]]


def _residual(luma: torch.Tensor, top: int, left: int) -> torch.Tensor:
    """|Y(i,j) + Y(i+1,j+1) - Y(i,j+1) - Y(i+1,j)|, bounded so that no edge outweighs the rest, without its mean."""
    cut = luma[top : top + _TILE + 1, left : left + _TILE + 1]
    residual = (cut[:-1, :-1] + cut[1:, 1:] - cut[:-1, 1:] - cut[1:, :-1]).abs_().clamp_(max=16.0)
    return residual - residual.mean()


def lattice(period: int) -> npt.NDArray[np.bool_]:
    """Bins that are multiples of 1/period on both axes, without the low frequencies; shape (256, 256)."""
    step = _TILE // period
    on = np.arange(_TILE) % step == 0
    grid = on[:, None] & on[None, :]
    distance = np.minimum(np.arange(_TILE), _TILE - np.arange(_TILE))
    return np.asarray(grid & ((distance[:, None] >= _LOWEST) | (distance[None, :] >= _LOWEST)))


def _log10_nfa(ratio: FloatArray, tiles: int, where: npt.NDArray[np.bool_]) -> tuple[float, tuple[int, int]]:
    """Smallest number of false alarms over the chosen bins, and its bin."""
    points = np.argwhere(where)
    values = ratio[where]
    best = int(np.argmax(values))
    tail = float(gammaincc(tiles, tiles * values[best]))
    # Far tail of the Gamma(T, 1/T): x^(T-1) e^-x / Gamma(T) with x = T v dominates.
    x = tiles * values[best]
    far = ((tiles - 1) * np.log(x) - x - np.log(np.arange(1, tiles)).sum()) / np.log(10.0) if x > 0 else 0.0
    log_tail = float(np.log10(tail)) if tail > 1e-250 else float(far)
    row, column = points[best]
    return float(np.log10(len(values))) + log_tail, (int(row), int(column))


def run(substrate: Substrate) -> Observation:
    """Looks for spectral peaks off the axes at odd multiples of 1/16 that surpass all peaks on the lattice of 1/8.

    Generators that enlarge 16 x 16 patches leave such peaks. The lattice of 1/8 is left out: JPEG, and every resize by
    2, 4, 4/3, 8/5 and the like, put peaks there; an enlarged JPEG grid puts its own on the axes. Enlargements by 16/n,
    and a JPEG whose pixels were doubled without interpolation, still make the same period: a peak says "periodic
    interpolation somewhere in its history", no more. On diffusion images as they circulate, resized and recompressed,
    it is rarely seen.
    """
    votes = grid_votes(substrate)
    if votes is None or min(substrate.height_px, substrate.width_px) <= _TILE:
        return not_applicable(
            "too_small", f"{substrate.width_px} x {substrate.height_px} px do not hold a {_TILE} px tile"
        )
    jpeg_grid = substrate.container.format not in {"PNG", "TIFF", "BMP", "GIF"} or votes.main is not None
    ratio, tiles = mean_spectrum(substrate.luma, without_period_8=jpeg_grid)
    nfa, (row, column) = _log10_nfa(ratio, tiles, lattice(16) & ~lattice(8) & _off_axes())
    # The same test between the lattice points is what textures alone reach, and on the lattice of 1/8 what ordinary
    # resizing does.
    elsewhere = (~_near(lattice(16)) & _high()) | lattice(8)
    other, _ = _log10_nfa(ratio, tiles, elsewhere)
    nfa -= min(other, 0.0)
    detected = nfa < _DETECT_LOG10_NFA
    return Observation(
        Outcome.TESTED,
        score=min(max(0.0, -nfa), _SCORE_CAP),
        score_meaning="-log10 of the number of false alarms of the strongest lattice peak over that of all other peaks",
        log10_nfa=nfa,
        detected=detected,
        explanation_key=f"{_ID}.{'detected' if detected else 'not_detected'}",
        measurements=(
            Measurement("peak_frequency_y", float(min(row, _TILE - row)) / _TILE, "cycles/px"),
            Measurement("peak_frequency_x", float(min(column, _TILE - column)) / _TILE, "cycles/px"),
            Measurement("peak_over_background", float(ratio[row, column]), "1"),
            Measurement("strongest_other_log10_nfa", max(other, -1e6), "1"),
        ),
    )


def _near(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Bins within two of the mask, where the window spreads its peaks."""
    spread = mask.copy()
    for axis in (0, 1):
        spread = np.any([np.roll(spread, shift, axis) for shift in range(-2, 3)], axis=0)
    return np.asarray(spread)


def _off_axes() -> npt.NDArray[np.bool_]:
    """Bins where neither frequency is 0."""
    nonzero = np.arange(_TILE) > 0
    return nonzero[:, None] & nonzero[None, :]


def _high() -> npt.NDArray[np.bool_]:
    distance = np.minimum(np.arange(_TILE), _TILE - np.arange(_TILE))
    return np.asarray((distance[:, None] >= _LOWEST) | (distance[None, :] >= _LOWEST))


TEST = Test(
    _ID,
    "Peaks in the spectrum at the periods of generators' up-sampling, where JPEG does not explain them",
    "Bammey: Synthbuster, IEEE Open Journal of Signal Processing 5, 2024",
    run,
)
