"""JPEG ghosts: a part that changes less than the rest when saved at the quality it once had (Farid, IEEE TIFS 2009)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.tools.frequency.block_dct import BLOCK
from vision_service.tools.frequency.requantised import QUALITIES, losses

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

_ID = "frequency.jpeg_ghost"
_LEAST_BLOCKS = 1024
_LEAST_LOSS = 0.2
"""Squared grey levels; below, a block is too flat to lose anything."""
_SMOOTHING_BLOCKS = 5
_THRESHOLD = 4.0
"""Robust standard deviations below the picture's median dip."""
_SHARES = (0.005, 0.5)
"""Smallest and largest share of the textured blocks that a ghost may cover."""


def dips(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """How far the loss at each inner quality lies below the geometric mean of its neighbours' losses.

    Args:
        values: as `Losses.values`, shape (qualities, rows, columns).

    Returns:
        float32, shape (qualities - 2, rows, columns), natural log; negative = dip.
    """
    logs = np.log(values + np.float32(0.05))
    return np.asarray(logs[1:-1] - 0.5 * (logs[:-2] + logs[2:]), dtype=np.float32)


def _strongest(
    dip: npt.NDArray[np.float32], textured: npt.NDArray[np.bool_]
) -> tuple[float, npt.NDArray[np.bool_] | None, npt.NDArray[np.float32]]:
    """Separation of the largest connected dip from the rest, its mask, and the standardised map.

    The separation is the Kolmogorov-Smirnov distance (Farid, section III) times the depth of the dip in natural log
    units: an uneven texture separates well, but hardly dips.
    """
    weight = cv2.blur(textured.astype(np.float32), (_SMOOTHING_BLOCKS, _SMOOTHING_BLOCKS))
    total = cv2.blur(np.where(textured, dip, 0).astype(np.float32), (_SMOOTHING_BLOCKS, _SMOOTHING_BLOCKS))
    known = weight > 0.5
    smooth = total / np.maximum(weight, 0.01)
    if int(known.sum()) < _LEAST_BLOCKS // 2:
        return 0.0, None, np.zeros_like(smooth)
    median = float(np.median(smooth[known]))
    spread = 1.4826 * float(np.median(np.abs(smooth[known] - median))) + 0.02
    standard = np.where(known, (smooth - median) / spread, 0.0).astype(np.float32)
    _, labels, stats, _ = cv2.connectedComponentsWithStats((standard < -_THRESHOLD).astype(np.uint8), connectivity=4)
    area = stats[:, cv2.CC_STAT_AREA].copy()
    area[0] = 0
    best = int(np.argmax(area))
    if not _SHARES[0] * known.sum() <= area[best] <= _SHARES[1] * known.sum():
        return 0.0, None, standard
    mask = labels == best
    inside, outside = dip[mask & textured], dip[~mask & textured]
    if not inside.size or not outside.size:
        return 0.0, None, standard
    depth = max(0.0, float(np.median(outside) - np.median(inside)))
    return _ks_distance(inside, outside) * depth, mask, standard


def _ks_distance(inside: npt.NDArray[np.float32], outside: npt.NDArray[np.float32]) -> float:
    """Largest excess of the distribution function of `inside` over that of `outside`, 0..1."""
    inside, outside = np.sort(inside), np.sort(outside)
    rank = np.searchsorted(outside, inside, side="right") / outside.size
    return float(max(0.0, ((np.arange(inside.size) + 1) / inside.size - rank).max()))


def run(substrate: Substrate) -> Observation:
    """Looks for a connected part whose loss dips at one quality where the rest's does not.

    Corroboration only, never a detection: genuine pictures with uneven texture show weak ghosts. Works on the
    picture's own block grid with libjpeg tables. Linear in pixels.
    """
    found = losses(substrate)
    if found is None or found.values[0].size < _LEAST_BLOCKS:
        size = f"{substrate.width_px} x {substrate.height_px} px"
        return not_applicable("too_small", f"{size} hold fewer than {_LEAST_BLOCKS} blocks")
    textured = found.values[0] > _LEAST_LOSS
    if int(textured.sum()) < _LEAST_BLOCKS // 2:
        return not_applicable("no_texture", f"only {int(textured.sum())} blocks have texture to lose")
    results = [_strongest(dip, textured) for dip in dips(found.values)]
    best = int(np.argmax([separation for separation, _, _ in results]))
    separation, mask, standard = results[best]
    values = np.zeros((-(-substrate.height_px // BLOCK), -(-substrate.width_px // BLOCK)), dtype=np.uint8)
    rows, columns = min(standard.shape[0], values.shape[0]), min(standard.shape[1], values.shape[1])
    values[:rows, :columns] = np.rint(np.clip(-standard * 25, 0, 255))[:rows, :columns]
    numbers = [Measurement("ghost_separation", separation, "1")]
    if mask is not None:
        numbers += [
            Measurement("ghost_quality", float(QUALITIES[best + 1]), "1"),
            Measurement("ghost_share", float(mask.mean()), "1"),
        ]
    return Observation(
        Outcome.TESTED,
        score=separation,
        score_meaning="Kolmogorov-Smirnov distance of the part with a dip from the rest, times the depth of the dip",
        explanation_key=f"{_ID}.{'weak_ghost' if mask is not None else 'not_detected'}",
        measurements=tuple(numbers),
        heat_map=HeatMap(values, BLOCK, "The cell changes less than the rest when saved at one particular quality"),
    )


TEST = Test(
    _ID,
    "A part that changes less than the rest when saved again at a quality it may once have had",
    "Farid: Exposing digital forgeries from JPEG ghosts, IEEE TIFS 4(1), 2009",
    run,
)
