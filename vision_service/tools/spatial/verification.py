"""Dense verification of a proposed copy: is the grain of one region that of the other?

Two look-alikes in one scene (windows, letters) were exposed independently: their noise differs, and where the scene
is quiet nothing correlates. A copied region carries its noise along.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from scipy import ndimage

from vision_service.tools.spatial.alignments import rival_alignments
from vision_service.tools.spatial.grain import CELL_PX, cell_correlation, flat_cells, grain, plateaus

FloatArray = npt.NDArray[np.float32]
Affine = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]

CELL_CORRELATION = 0.4
"""Least grain correlation of a cell of the region."""
MIN_DISTANCE_PX = 16.0
"""Points that move less than this are compared with their own surroundings and say nothing."""
MARGIN_PX = 48
MAX_BOX_PX = 12_000_000
"""Largest box that is compared at once; a larger one is cut to its middle, where a copy shows as well."""
SHARE_BUDGET = 4
BASE_BUDGET_PX = 8_000_000
"""All candidates of a picture together may compare this much plus `SHARE_BUDGET` times the picture, of which no more
than `MAX_BOX_PX` counts: a picture of equal tiles proposes as many copies as anyone wants to look at."""
_NEAR_IDENTITY = 0.04
_ALIGNED = 0.85
_REFINE_PIXELS = 400_000


@dataclass(frozen=True, eq=False)
class Copy:
    """A connected region whose likeness lies elsewhere."""

    transform: Affine
    """Shape (2, 3): place of the likeness = A place + b, pixels."""
    cells: npt.NDArray[np.bool_]
    """Shape (rows, columns) of cells of CELL_PX, from `origin`."""
    origin: tuple[int, int]
    """(x, y) of the first cell's corner, pixels, multiples of CELL_PX."""
    correlation: float
    """Median grain correlation of the region's cells, -1..1."""
    quiet_correlation: float
    """Grain correlation over the half of the region that has least structure, -1..1."""
    rival: float
    """Highest correlation of the region at a wrong alignment 3..LAG_PX px off, -1..1: edges and patterns."""
    whole: float
    """Correlation of the region as a whole at the right alignment, -1..1."""
    flat: float
    """Share of the region without any grain to compare, 0..1."""
    plateau: float
    """Share of the region's pixels that equal their right and lower neighbours, 0..1."""

    @property
    def area_cells(self) -> int:
        """Size of the region in cells."""
        return int(self.cells.sum())

    @property
    def sharpness(self) -> float:
        """How far the right alignment surpasses every wrong one."""
        return self.whole - max(self.rival, 0.0)


class Verifier:
    """Verifies the candidates of one picture, within a budget of compared pixels; the same comparison is made once."""

    def __init__(self, luma: FloatArray) -> None:
        """Takes the luminance, float32, shape (H, W), 0..255."""
        self._luma = luma
        self._left_px = BASE_BUDGET_PX + SHARE_BUDGET * min(luma.size, MAX_BOX_PX)
        self._known: dict[tuple[bytes, Box], Copy | None] = {}
        self.left_out = 0
        """Comparisons that the budget did not reach for."""

    def verify(self, transform: Affine, box: Box) -> Copy | None:
        """The largest region within `box` whose grain is found again at its image under the transform.

        Args:
            transform: from source to likeness, shape (2, 3), pixels.
            box: where the source is sought: x0, y0, x1, y1.
        """
        found = None
        for _ in range(2):
            clipped = _clip(box, self._luma.shape)
            if clipped is None:
                return None
            found = self._best_alignment(transform, clipped)
            if found is None or not _touches(found, clipped):
                return found
            box, transform = _grown(found), found.transform
        return found

    def _best_alignment(self, transform: Affine, box: Box) -> Copy | None:
        snapped = _snap(transform, box)
        found = None if snapped is None else self._compare(snapped, box)
        if found is not None and found.correlation > _ALIGNED:
            return found
        found = _better(found, self._compare(transform, box))
        if found is None or found.correlation > _ALIGNED or _is_whole(transform):
            return found
        refined = _refine(self._luma, found)
        return found if refined is None else _better(found, self._compare(refined, box))

    def _compare(self, transform: Affine, box: Box) -> Copy | None:
        key = (transform.tobytes(), box)
        if key not in self._known:
            area = (box[2] - box[0]) * (box[3] - box[1])
            if area > self._left_px:
                self.left_out += 1
                return None
            self._left_px -= area
            self._known[key] = _measure(self._luma, transform, box)
        return self._known[key]


def _clip(box: Box, shape: tuple[int, ...]) -> Box | None:
    x0, x1 = max(0, box[0]), min(shape[1], box[2])
    y0, y1 = max(0, box[1]), min(shape[0], box[3])
    area = max(x1 - x0, 0) * max(y1 - y0, 0)
    if area > MAX_BOX_PX:
        cut = (1 - (MAX_BOX_PX / area) ** 0.5) / 2
        dx, dy = int(cut * (x1 - x0)) + CELL_PX, int(cut * (y1 - y0)) + CELL_PX
        x0, y0, x1, y1 = x0 + dx, y0 + dy, x1 - dx, y1 - dy
    x0, y0 = x0 // CELL_PX * CELL_PX, y0 // CELL_PX * CELL_PX
    return (x0, y0, x1, y1) if min(x1 - x0, y1 - y0) >= 3 * CELL_PX else None


def bounds(copy: Copy) -> Box:
    """Bounding box of the region in pixels: x0, y0, x1, y1."""
    rows, columns = np.flatnonzero(copy.cells.any(axis=1)), np.flatnonzero(copy.cells.any(axis=0))
    x, y = copy.origin
    return (
        x + int(columns[0]) * CELL_PX,
        y + int(rows[0]) * CELL_PX,
        x + (int(columns[-1]) + 1) * CELL_PX,
        y + (int(rows[-1]) + 1) * CELL_PX,
    )


def _touches(copy: Copy, box: Box) -> bool:
    x0, y0, x1, y1 = bounds(copy)
    edge = CELL_PX
    return x0 - box[0] < edge or y0 - box[1] < edge or box[2] - x1 < edge or box[3] - y1 < edge


def _grown(copy: Copy) -> Box:
    x0, y0, x1, y1 = bounds(copy)
    dx, dy = max(MARGIN_PX, x1 - x0), max(MARGIN_PX, y1 - y0)
    return (x0 - dx, y0 - dy, x1 + dx, y1 + dy)


def _better(first: Copy | None, second: Copy | None) -> Copy | None:
    options = [copy for copy in (first, second) if copy is not None]
    return max(options, key=lambda copy: copy.correlation * copy.area_cells, default=None)


def _snap(transform: Affine, box: Box) -> Affine | None:
    """The whole-pixel translation that a near-translation stands for."""
    linear = transform[:, :2]
    if np.abs(linear - np.eye(2)).max() > _NEAR_IDENTITY:
        return None
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    shift = np.rint(linear @ centre + transform[:, 2] - centre)
    return np.hstack([np.eye(2), shift[:, None]])


def _refine(luma: FloatArray, copy: Copy) -> Affine | None:
    """Affine alignment that maximises the correlation over the bounding box of the region found so far
    (Evangelidis, Psarakis: PAMI 2008); None where that does not converge or drifts away.
    """
    x0, y0, x1, y1 = bounds(copy)
    x1, y1 = min(x1, luma.shape[1]), min(y1, luma.shape[0])
    if copy.area_cells < 4 or (x1 - x0) * (y1 - y0) > _REFINE_PIXELS:
        return None
    corners = np.array([[x0, y0, 1], [x1, y0, 1], [x0, y1, 1], [x1, y1, 1]], dtype=np.float64)
    there = corners @ copy.transform.T
    left, top = np.maximum(np.floor(there.min(axis=0)).astype(int) - 8, 0)
    right, bottom = np.ceil(there.max(axis=0)).astype(int) + 8
    local = _local(copy.transform, (x0, y0, x1, y1))
    local[:, 2] -= [left, top]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 1e-4)
    try:
        _, found = cv2.findTransformECC(
            luma[y0:y1, x0:x1],
            luma[top:bottom, left:right],
            local.astype(np.float32),
            cv2.MOTION_AFFINE,
            criteria,
        )
    except cv2.error:  # the two have too little in common
        return None
    refined = np.asarray(found, dtype=np.float64)
    refined[:, 2] += np.array([left, top]) - refined[:, :2] @ [x0, y0]
    drift = float(np.abs(corners @ (refined - copy.transform).T).max())
    return refined if drift < 0.1 * max(x1 - x0, y1 - y0) + 4 else None


def _pixels(cells: npt.NDArray[np.bool_], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    pixels = np.zeros(shape, dtype=bool)
    rows, columns = cells.shape[0] * CELL_PX, cells.shape[1] * CELL_PX
    pixels[:rows, :columns] = cells.repeat(CELL_PX, axis=0).repeat(CELL_PX, axis=1)
    return pixels


def _is_whole(transform: Affine) -> bool:
    return bool((transform[:, :2] == np.eye(2)).all() and (transform[:, 2] == np.rint(transform[:, 2])).all())


def _local(transform: Affine, box: Box) -> Affine:
    local = transform.copy()
    local[:, 2] += transform[:, :2] @ [box[0], box[1]]
    return local


def _measure(luma: FloatArray, transform: Affine, box: Box) -> Copy | None:
    x0, y0, x1, y1 = box
    first, deviation = grain(luma[y0:y1, x0:x1])
    second, deviation_there = _warped_grain(luma, transform, box)
    quiet = np.minimum(deviation, deviation_there)
    correlation = cell_correlation(first, second)
    correlation[~_comparable(transform, box, luma.shape)] = 0
    flat = flat_cells(quiet)
    correlation[flat & ~_enclosed(correlation, flat)] = 0
    region = _largest(correlation > CELL_CORRELATION)
    if region is None:
        return None
    pixels = _pixels(region, (y1 - y0, x1 - x0))
    half = pixels & (quiet <= np.median(quiet[pixels]))
    whole, rival = rival_alignments(np.where(pixels, first, 0), second)
    return Copy(
        transform,
        region,
        (x0, y0),
        correlation=float(np.median(correlation[region])),
        quiet_correlation=_coefficient(first[half], second[half]),
        rival=rival,
        whole=whole,
        flat=float(flat[region].mean()),
        plateau=float(plateaus(luma[y0:y1, x0:x1])[pixels].mean()),
    )


def _warped_grain(luma: FloatArray, transform: Affine, box: Box) -> tuple[FloatArray, FloatArray]:
    x0, y0, x1, y1 = box
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    size = (x1 - x0, y1 - y0)
    there = cv2.warpAffine(luma, _local(transform, box), size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return grain(np.asarray(there, dtype=np.float32))


def _comparable(transform: Affine, box: Box, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Whole cells of the box whose image lies well within the picture and away from themselves."""
    columns, rows = (box[2] - box[0]) // CELL_PX, (box[3] - box[1]) // CELL_PX
    x = box[0] + (CELL_PX - 1) / 2 + CELL_PX * np.arange(columns)[None, :]
    y = box[1] + (CELL_PX - 1) / 2 + CELL_PX * np.arange(rows)[:, None]
    there_x, there_y = (row[0] * x + row[1] * y + row[2] for row in transform)
    margin = CELL_PX
    inside = (there_x > margin) & (there_x < shape[1] - margin) & (there_y > margin) & (there_y < shape[0] - margin)
    return np.asarray(inside & (np.hypot(there_x - x, there_y - y) >= MIN_DISTANCE_PX))


def _enclosed(correlation: FloatArray, flat: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Flat cells that belong to a region because two thirds of their neighbours with grain correlate."""
    textured = cv2.boxFilter((~flat).astype(np.float32), -1, (3, 3), normalize=False)
    agreeing = cv2.boxFilter((~flat & (correlation > CELL_CORRELATION)).astype(np.float32), -1, (3, 3), normalize=False)
    return np.asarray((textured >= 3) & (agreeing >= 0.66 * textured))


def _largest(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_] | None:
    labels, count = ndimage.label(mask)
    if count == 0:
        return None
    return np.asarray(labels == 1 + int(np.bincount(labels.ravel())[1:].argmax()))


def _coefficient(first: FloatArray, second: FloatArray) -> float:
    norm = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / norm if norm > 1e-6 else 0.0
