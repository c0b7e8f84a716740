"""Copy-move: a region of the picture pasted elsewhere in the same picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage

from vision_service.domain import MAX_REGIONS, HeatMap, Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.spatial.autocorrelation import Shift, similar_shifts
from vision_service.tools.spatial.grain import CELL_PX, cell_correlation, plateau_share, whole_grain
from vision_service.tools.spatial.keypoints import find_keypoints
from vision_service.tools.spatial.matching import Cluster, clusters, match
from vision_service.tools.spatial.verification import (
    CELL_CORRELATION,
    MARGIN_PX,
    MAX_BOX_PX,
    Affine,
    Box,
    Copy,
    Verifier,
    bounds,
)

FloatArray = npt.NDArray[np.float32]

ID = "spatial.copy_move"
MIN_SIDE_PX = 64
MAX_KEYPOINTS = 5000
MAX_CLUSTERS = 6
MAX_SHIFTS = 5
MIN_Z = 6.0
"""Least autocorrelation peak worth verifying, standard deviations."""

CORRELATION = 0.78
QUIET_CORRELATION = 0.70
SHARPNESS = 0.36
AREA_CELLS = 32
MAX_FLAT = 0.5
MAX_PLATEAU = 0.45
"""Drawn letters and icons repeat exactly without anyone having copied them: regions (and, above `MAX_GRAPHIC`, whole
pictures) that consist of plateaus are no evidence."""
MAX_GRAPHIC = 0.5


@dataclass(frozen=True, eq=False)
class Candidate:
    """A proposed copy after verification."""

    copy: Copy
    points: int
    """Matched keypoints; 0 when the proposal came from the autocorrelation."""
    log10_nfa: float | None
    """Of the matched keypoints."""

    @property
    def strength(self) -> float:
        """1 and above: every criterion of a copy is met."""
        copy = self.copy
        worst = min(
            copy.correlation / CORRELATION, copy.quiet_correlation / QUIET_CORRELATION, copy.sharpness / SHARPNESS
        )
        size = min(1.0, copy.area_cells / AREA_CELLS)
        texture = min(1.0, (1.0 - copy.flat) / (1.0 - MAX_FLAT))
        strength = max(0.0, worst) * size * texture
        return strength if copy.plateau <= MAX_PLATEAU else min(strength, 0.5)


def run(substrate: Substrate) -> Observation:
    """Looks for regions whose fine grain occurs twice.

    Proposals come from groups of SIFT matches (any rotation, scales 1/2..2) and from the autocorrelation of the
    residual (pure translations, smooth areas too); each is verified pixel by pixel at native resolution.
    Complexity: linear in pixels (SIFT, two FFTs, five comparisons) plus constants for at most 5000 keypoints and for
    8 MP of verification, which in all takes no more than 56 MP. Where a picture of equal parts proposes more, the
    measurement comparisons_left_out says how often the search was cut short, and the strongest that was seen counts.
    Fails on: copies smaller than about 45 x 45 px, mirrored or strongly distorted ones, copies recompressed so that no
    grain survives, regions without any texture, drawings and screenshots.
    """
    if min(substrate.height_px, substrate.width_px) < MIN_SIDE_PX:
        return not_applicable(
            "too_small",
            f"the picture has {substrate.width_px} x {substrate.height_px} px; copies are sought from "
            f"{MIN_SIDE_PX} px a side",
        )
    luma = substrate.luma.cpu().numpy()
    graphic = plateau_share(luma)
    if graphic > MAX_GRAPHIC:
        return not_applicable(
            "no_grain",
            f"{graphic:.0%} of the pixels equal their neighbours, as in a drawing or screenshot, where equal elements "
            "do not mean a copy",
        )
    verifier = Verifier(luma)
    candidates = sorted(_candidates(substrate, luma, verifier), key=lambda c: -c.strength)
    return _observe(candidates, verifier.left_out, substrate.height_px, substrate.width_px)


def _candidates(substrate: Substrate, luma: FloatArray, verifier: Verifier) -> Iterator[Candidate]:
    keypoints = find_keypoints(luma.astype(np.uint8), MAX_KEYPOINTS)
    for cluster in clusters(match(keypoints, substrate.device), luma.size, MAX_CLUSTERS):
        copy = verifier.verify(cluster.transform, _cluster_box(cluster)) if _plausible(cluster.transform) else None
        if copy is not None:
            yield Candidate(copy, len(cluster.source), cluster.log10_nfa)
    noise = whole_grain(luma)
    for shift in similar_shifts(torch.from_numpy(noise).to(substrate.device), MAX_SHIFTS, MIN_Z):
        box_or_none = _shifted_box(noise, shift)
        if box_or_none is None:
            continue
        transform = np.array([[1.0, 0.0, shift.dx_px], [0.0, 1.0, shift.dy_px]])
        copy = verifier.verify(transform, box_or_none)
        if copy is not None:
            yield Candidate(copy, 0, None)


def _cluster_box(cluster: Cluster) -> Box:
    """Matched places and as much again around them."""
    low, high = cluster.source.min(axis=0), cluster.source.max(axis=0)
    if np.prod(high - low) > MAX_BOX_PX:  # will be cut to its middle, which a stray match must not move
        low, high = np.quantile(cluster.source, (0.1, 0.9), axis=0)
    margin = np.maximum(MARGIN_PX, (high - low) / 2)
    x0, y0 = np.floor(low - margin).astype(int).tolist()
    x1, y1 = np.ceil(high + margin).astype(int).tolist()
    return (x0, y0, x1, y1)


def _plausible(transform: Affine) -> bool:
    scale = float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))
    return 0.45 < scale < 2.2


def _shifted_box(noise: FloatArray, shift: Shift) -> Box | None:
    """Surroundings of the largest region that agrees with the picture shifted by a whole number of pixels."""
    height, width = noise.shape
    dx, dy = shift.dx_px, shift.dy_px
    x0, x1, y0, y1 = max(0, -dx), min(width, width - dx), max(0, -dy), min(height, height - dy)
    if min(x1 - x0, y1 - y0) < 3 * CELL_PX:
        return None
    correlation = cell_correlation(noise[y0:y1, x0:x1], noise[y0 + dy : y1 + dy, x0 + dx : x1 + dx])
    labels, count = ndimage.label(correlation > CELL_CORRELATION)
    if count == 0:
        return None
    rows, columns = ndimage.find_objects(labels)[int(np.bincount(labels.ravel())[1:].argmax())]
    left, top = x0 + columns.start * CELL_PX - MARGIN_PX, y0 + rows.start * CELL_PX - MARGIN_PX
    return (left, top, x0 + columns.stop * CELL_PX + MARGIN_PX, y0 + rows.stop * CELL_PX + MARGIN_PX)


def _observe(candidates: list[Candidate], left_out: int, height: int, width: int) -> Observation:
    proven = [c for c in candidates if c.strength >= 1.0]
    best = candidates[0] if candidates else None
    nfa = min((c.log10_nfa for c in proven if c.log10_nfa is not None), default=None)
    return Observation(
        Outcome.TESTED,
        score=min(best.strength, 2.0) if best else 0.0,
        score_meaning="how closely the grain of two regions agrees, as a multiple of what a copy needs (1 = a copy)",
        log10_nfa=nfa,
        detected=bool(proven),
        explanation_key=f"{ID}.detected" if proven else f"{ID}.not_detected",
        measurements=(*_measurements(best), *_limits(left_out)),
        regions=_regions(proven, height, width),
        heat_map=_heat_map(proven, height, width) if proven else None,
    )


def _measurements(best: Candidate | None) -> tuple[Measurement, ...]:
    if best is None:
        return (Measurement("copies_proposed", 0.0, "count"),)
    copy = best.copy
    x0, y0, x1, y1 = bounds(copy)
    centre = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    shift = copy.transform[:, :2] @ centre + copy.transform[:, 2] - centre
    linear = copy.transform[:, :2]
    return (
        Measurement("grain_correlation", copy.correlation, "1"),
        Measurement("quiet_grain_correlation", copy.quiet_correlation, "1"),
        Measurement("rival_alignment_correlation", copy.rival, "1"),
        Measurement("alignment_sharpness", copy.sharpness, "1"),
        Measurement("area", float(copy.area_cells * CELL_PX**2), "px"),
        Measurement("flat_share", copy.flat, "1"),
        Measurement("plateau_share", copy.plateau, "1"),
        Measurement("shift_x", float(shift[0]), "px"),
        Measurement("shift_y", float(shift[1]), "px"),
        Measurement("rotation", float(np.degrees(np.arctan2(linear[1, 0], linear[0, 0]))), "deg"),
        Measurement("scale", float(np.sqrt(abs(np.linalg.det(linear)))), "1"),
        Measurement("matched_keypoints", float(best.points), "count"),
    )


def _limits(left_out: int) -> tuple[Measurement, ...]:
    return (Measurement("comparisons_left_out", float(left_out), "count"),) if left_out else ()


def _regions(proven: list[Candidate], height: int, width: int) -> tuple[Region, ...]:
    """Source and copy of each proven candidate, once each; nothing in the pixels tells which is which."""
    found: list[Region] = []
    for candidate in proven:
        for mask in _places(candidate.copy, height, width):
            rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            if len(rows) == 0:
                continue
            x, y = int(columns[0]) * CELL_PX, int(rows[0]) * CELL_PX
            x1, y1 = min(width, (int(columns[-1]) + 1) * CELL_PX), min(height, (int(rows[-1]) + 1) * CELL_PX)
            region = Region(x, y, x1 - x, y1 - y)
            if all(_overlap(region, other) < 0.5 for other in found):
                found.append(region)
    return tuple(found[:MAX_REGIONS])


def _overlap(a: Region, b: Region) -> float:
    width = min(a.x_px + a.width_px, b.x_px + b.width_px) - max(a.x_px, b.x_px)
    height = min(a.y_px + a.height_px, b.y_px + b.height_px) - max(a.y_px, b.y_px)
    inter = max(0, width) * max(0, height)
    return inter / (a.width_px * a.height_px + b.width_px * b.height_px - inter)


def _places(copy: Copy, height: int, width: int) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Cells of the picture covered by the region and by its likeness, each shape (ceil(H / 8), ceil(W / 8))."""
    shape = (-(-height // CELL_PX), -(-width // CELL_PX))
    here = np.zeros(shape, dtype=bool)
    row, column = copy.origin[1] // CELL_PX, copy.origin[0] // CELL_PX
    here[row : row + copy.cells.shape[0], column : column + copy.cells.shape[1]] = copy.cells
    cells = copy.transform.copy()  # the same transform in cells, whose centres lie half a cell from their corners
    half = (CELL_PX - 1) / 2
    cells[:, 2] = (copy.transform[:, :2] @ [half, half] + copy.transform[:, 2] - half) / CELL_PX
    there = cv2.warpAffine(here.astype(np.float32), cells, (shape[1], shape[0]), flags=cv2.INTER_LINEAR)
    return here, np.asarray(there >= 0.5)


def _heat_map(proven: list[Candidate], height: int, width: int) -> HeatMap:
    values = np.zeros((-(-height // CELL_PX), -(-width // CELL_PX)), dtype=np.uint8)
    for candidate in proven:
        level = int(np.clip(255 * candidate.copy.correlation, 128, 255))
        for mask in _places(candidate.copy, height, width):
            values[mask] = np.maximum(values[mask], level)
    return HeatMap(values, CELL_PX, "The fine grain here occurs a second time in the picture.", significant=True)


TEST = Test(
    id=ID,
    description="Looks for regions that were copied and pasted within the picture.",
    source="Lowe: IJCV 2004; Ehret: arXiv 1906.00649; Cozzolino, Poggi, Verdoliva: TIFS 2015",
    run=run,
)
