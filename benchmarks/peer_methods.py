"""The methods of pyIFD that are compared: how each is called, the shape of its map, which of our tests it matches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from scipy.stats import rankdata

from vision_service.domain import HeatMap
from vision_service.labelled import pixel_figures

WHOLE = 0
"""Cell size of maps that are stretched over the picture."""


def _only(output: Any) -> list[Any]:
    return [output]


def _first(output: Any) -> list[Any]:
    return [output[0]]


def _ghosts(output: Any) -> list[Any]:
    """The maps at the minima of the difference over qualities, which are where its authors look for ghosts."""
    return [output[2][minimum - 1] for minimum in output[3]]


@dataclass(frozen=True)
class Peer:
    """One method."""

    name: str
    module: str
    function: str
    ours: tuple[str, ...]
    """Ids of our tests that look for the same kind of trace."""
    maps: Callable[[Any], list[Any]] = _only
    """Its maps, shape (H', W') each, out of what the function returns."""
    cell_px: int = 8
    """Side of a map's cell in pixels of the picture, or WHOLE."""
    slow: bool = False
    """Run on the smaller pictures alone."""


_NOISE = ("noise.level_map", "noise.residual_statistics", "spatial.fingerprint", "baseline.noi1")
_GRID = ("spatial.grid_inconsistency",)
_DOUBLE = ("frequency.double_jpeg",)

PEERS = (
    Peer("ADQ1", "ADQ1", "detectDQ", _DOUBLE, _first),
    Peer("ADQ2", "ADQ2", "getJmap", _DOUBLE, _first),
    Peer("ADQ3", "ADQ3", "BenfordDQ", _DOUBLE, slow=True),
    Peer("DCT", "DCT", "DCT", _DOUBLE),
    Peer("NADQ", "NADQ", "NADQ", _DOUBLE),
    Peer("BLK", "BLK", "GetBlockGrid", _GRID, _first),
    Peer("CAGI", "CAGI", "CAGI", _GRID, _first, WHOLE),
    Peer("GHOST", "GHOST", "GHOST", ("frequency.jpeg_ghost",), _ghosts, WHOLE, slow=True),
    Peer("ELA", "ELA", "ELA", ("frequency.ela", "baseline.ela"), _only, WHOLE),
    Peer("NOI1", "NOI1", "GetNoiseMap", _NOISE, _only, WHOLE),
    Peer("NOI2", "NOI2", "GetNoiseMaps", _NOISE, _only, WHOLE, slow=True),
    Peer("NOI4", "NOI4", "MedFiltForensics", _NOISE, _only, WHOLE),
    Peer("NOI5", "NOI5", "PCANoise", _NOISE, _first, WHOLE, slow=True),
)
"""CFA1 fails with numpy 2 (it uses a name that is gone); CFA2 answers to no map of ours."""

SINGLE_TESTS = ("spatial.blur_inconsistency", "spatial.copy_move")
"""Tests of ours with a map that no method of pyIFD answers to."""

DECIDING = (
    "frequency.double_jpeg",
    "frequency.foreign_grid",
    "frequency.resampling",
    "noise.level_map",
    "noise.low_noise_regions",
    "noise.cfa",
    "spatial.copy_move",
    "baseline.sift_copy_move",
)
"""Tests for editing that can say "found". The others score and draw but decide nothing, as do the baselines ELA and
NOI1 and all of pyIFD."""


def to_heat_map(values: npt.ArrayLike, peer: Peer, height_px: int, width_px: int) -> HeatMap:
    """A map of real numbers as ranks in 0..255, equal values equal, so that no threshold is lost to its scale.

    What is not finite says nothing and gets the median.

    Raises:
        ValueError: `values` has not two dimensions.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"a map has shape {array.shape}")
    finite = np.isfinite(array)
    array = np.where(finite, array, np.median(array[finite]) if finite.any() else 0.0)
    ranks = rankdata(array).reshape(array.shape)
    scaled = np.clip(np.rint(ranks / ranks.size * 255), 0, 255).astype(np.uint8)
    if peer.cell_px != WHOLE:
        return HeatMap(scaled, peer.cell_px, peer.name)
    stretched = cv2.resize(scaled, (width_px, height_px), interpolation=cv2.INTER_NEAREST)
    return HeatMap(np.asarray(stretched, np.uint8), 1, peer.name)


def best_map(heat_maps: Sequence[HeatMap], mask: npt.NDArray[np.bool_]) -> HeatMap | None:
    """Of several maps the one that tells the mask best in either sign, which is more than an analyst could know."""
    return max(heat_maps, key=lambda heat_map: abs(pixel_figures(heat_map, mask).auc - 0.5), default=None)
