"""Periodic interpolation: parts that were enlarged, shrunk or turned (Popescu & Farid 2005; Gallagher 2005)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from scipy.ndimage import binary_dilation, label, median_filter

from vision_service.domain import MAX_REGIONS, Measurement, Observation, Outcome, Region, Test, not_applicable

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

FloatArray = npt.NDArray[np.float64]

_ID = "frequency.resampling"
TILE = 256
_STEP = 128
"""Tiles overlap by half."""
_STRIP_PX = 4 * _STEP
"""Rows worked on at once: bounds the memory on very large pictures."""
_LOWEST_BIN = 12
"""Slower periods are picture content."""
_LATTICE_BINS = 2
"""Half width in bins of what is left out around multiples of 1/8 (JPEG blocks) and of 1/2 (colour filter)."""
_NEIGHBOURHOOD = 21
"""Bins over which the median spectrum is taken."""
_DETECT_LOG10_NFA = -8.0
"""Stricter than the usual -3: fabric, grids and screens have periods of their own."""
_SCORE_CAP = 30.0
_LEAST_TILES = 9
"""Fewer cannot be compared with each other."""


@dataclass(frozen=True, eq=False)
class TileSpectra:
    """Spectra of the interpolation residual per tile."""

    strength: FloatArray
    """Shape (tile rows, tile columns, bins): the smaller of the horizontal and the vertical power over its local
    median, times ln 2; under H0 each of the two is exponential with mean 1."""
    bins: npt.NDArray[np.int64]
    """DFT bin of each entry, cycles per TILE px."""


def tile_spectra(luma: torch.Tensor) -> TileSpectra:
    """Second differences along rows and along columns, averaged across, and their power spectra per tile.

    A linear interpolator makes the mean magnitude of the second difference periodic with the resampling factor
    (Gallagher, equation 7). A picture scaled alike in both directions has the same period in both; fabric and blinds
    seldom have.

    Args:
        luma: float32, shape (H, W), H and W >= 258.
    """
    means = [(_band_means(horizontal), _band_means(vertical.T)) for horizontal, vertical in _differences(luma)]
    across = _profiles(torch.cat([rows for rows, _ in means]))
    down = _profiles(torch.cat([columns for _, columns in means], dim=1)).transpose(1, 0, 2)
    bins = np.arange(_LOWEST_BIN, TILE // 2 - _LATTICE_BINS)
    offset = bins % (TILE // 8)
    bins = bins[np.minimum(offset, TILE // 8 - offset) > _LATTICE_BINS]
    return TileSpectra(np.minimum(_strength(across), _strength(down))[:, :, bins], bins)


def _differences(luma: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Magnitudes of the second differences along rows and along columns, in strips of whole bands of _STEP rows."""
    for top in range(0, luma.shape[0] - 2, _STRIP_PX):
        strip = luma[top : top + _STRIP_PX + 2]
        twice = 2 * strip[1:-1, 1:-1]
        across = (twice - strip[1:-1, :-2] - strip[1:-1, 2:]).abs_().clamp_(max=32.0)
        yield across, (twice - strip[:-2, 1:-1] - strip[2:, 1:-1]).abs_().clamp_(max=32.0)


def _band_means(difference: torch.Tensor) -> torch.Tensor:
    """Means over whole bands of _STEP rows, shape (bands, W)."""
    bands = difference.shape[0] // _STEP
    return difference[: bands * _STEP].reshape(bands, _STEP, difference.shape[1]).mean(dim=1)


def _profiles(bands: torch.Tensor) -> FloatArray:
    """Mean over the rows of each tile, shape (tile rows, tile columns, TILE)."""
    profile = (0.5 * (bands[1:] + bands[:-1])).unfold(1, TILE, _STEP)
    return np.asarray(profile.cpu().numpy(), dtype=np.float64)


def _strength(profiles: FloatArray) -> FloatArray:
    """Power over the local median, scaled to an exponential of mean 1 under H0; shape (..., TILE // 2 + 1)."""
    detrended = profiles - median_filter(profiles, size=(1, 1, 9), mode="nearest")
    power = np.abs(np.fft.rfft(detrended * np.hanning(TILE), axis=-1)) ** 2
    background = median_filter(power, size=(1, 1, _NEIGHBOURHOOD), mode="nearest")
    return np.asarray(np.log(2.0) * power / np.maximum(background, 1e-9))


def _largest_group(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    labels, count = label(mask)
    if not count:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:])))


def _elsewhere(strength: FloatArray, group: npt.NDArray[np.bool_]) -> bool:
    """Whether the tiles off the group and its overlaps show the period too, if more weakly, as flat tiles do.

    The smaller of two unit exponentials has mean 1/2; the largest of three such has mean (1 + 1/2 + 1/3) / 2 = 0.92
    and standard deviation 0.58.
    """
    rest = strength[~binary_dilation(group, np.ones((3, 3), dtype=bool))]
    return rest.size < _LEAST_TILES // 2 or bool(rest.mean() > 0.92 + 2 * 0.58 / np.sqrt(rest.size))


def run(substrate: Substrate) -> Observation:
    """Looks for tiles that share a resampling period which the rest of the picture does not have.

    A period that runs through the whole picture (a web resize, a phone's zoom or lens correction) is a measurement,
    no alarm and has no number of false alarms. Periods on the lattice of 1/8 are JPEG's and are left out, so that
    factors of exactly 2 or 4/3 and the like go unseen. Strong JPEG compression hides the trace. Linear in pixels.
    """
    if min(substrate.height_px, substrate.width_px) < TILE + 2:
        size = f"{substrate.width_px} x {substrate.height_px} px"
        return not_applicable("too_small", f"{size} do not hold a tile of {TILE + 2} px")
    spectra = tile_spectra(substrate.luma)
    strength = spectra.strength
    tiles = strength.shape[0] * strength.shape[1]
    everywhere = np.median(strength.reshape(tiles, -1), axis=0)
    tests = float(np.log10(tiles * len(spectra.bins)))
    # Both directions exceed m with probability exp(-2 m).
    nfa = tests - 2 * (strength - everywhere) / np.log(10.0)
    common = int(np.argmax(everywhere))
    numbers = [
        Measurement("picture_period_strength", float(everywhere[common]), "1"),
        Measurement("picture_period_frequency", float(spectra.bins[common]) / TILE, "cycles/px"),
    ]
    row, column, best = (int(i) for i in np.unravel_index(np.argmin(nfa), nfa.shape))
    peak = nfa[:, :, max(0, best - 1) : best + 2].min(axis=2)
    group = _largest_group(peak < _DETECT_LOG10_NFA / 2)
    local = tiles >= _LEAST_TILES and 2 <= int(group.sum()) <= tiles // 2 and bool(group[row, column])
    local = local and not _elsewhere(strength[:, :, max(0, best - 1) : best + 2].max(axis=2), group)
    strongest = float(nfa[row, column, best])
    detected = local and strongest < _DETECT_LOG10_NFA
    numbers += [
        Measurement("tile_period_frequency", float(spectra.bins[best]) / TILE, "cycles/px"),
        Measurement("tiles_with_period", float(group.sum()), "count"),
    ]
    variant = "detected" if detected else "whole_picture" if everywhere[common] > 6.0 else "not_detected"
    return Observation(
        Outcome.TESTED,
        score=min(max(0.0, -strongest), _SCORE_CAP) if local else 0.0,
        score_meaning="-log10 of the number of false alarms of a period that a group of tiles has and the rest has not",
        log10_nfa=strongest if local else None,
        detected=detected,
        explanation_key=f"{_ID}.{variant}",
        measurements=tuple(numbers),
        regions=_regions(group) if detected else (),
    )


def _regions(group: npt.NDArray[np.bool_]) -> tuple[Region, ...]:
    rows, columns = np.flatnonzero(group.any(1)), np.flatnonzero(group.any(0))
    top, left = int(rows[0]) * _STEP, int(columns[0]) * _STEP
    box = Region(left, top, int(columns[-1]) * _STEP + TILE - left, int(rows[-1]) * _STEP + TILE - top)
    return (box,)[:MAX_REGIONS]


TEST = Test(
    _ID,
    "Parts with a period of interpolation that the rest of the picture does not have",
    "Popescu, Farid: IEEE TSP 53(2), 2005; Gallagher: Canadian Conf. Computer and Robot Vision, 2005",
    run,
)
