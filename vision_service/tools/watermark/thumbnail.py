"""The EXIF thumbnail against the picture: same scene, same framing, same content?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.decoding.thumbnails import MIN_SIDE_PX

FloatArray = npt.NDArray[np.float32]

MIN_CONTRAST: Final = 8.0
"""Least standard deviation in grey levels at which a comparison means anything."""
SAME_SCENE: Final = 0.55
"""Least correlation of a thumbnail that shows the picture; the camera files measured have 0.90 and more."""
CROP_CORRELATION: Final = 0.8
"""Least correlation at which a picture counts as found inside its thumbnail."""

_WINDOW: Final = 7
_BAR_LEVEL: Final = 24.0
_MIN_CHANGED_PX: Final = 12
_MIN_CHANGED_SHARE: Final = 0.001
_ECC: Final = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 60, 1e-5)
_CROP_SCALES: Final = np.arange(0.3, 0.96, 0.025)


@dataclass(frozen=True, eq=False)
class Comparison:
    """How a thumbnail and a picture agree after the best rotation, affine alignment and tone fit."""

    correlation: float
    """Zero-mean normalised cross-correlation, -1..1."""
    quarter_turns: int
    """By which the picture was turned to fit the thumbnail, 0..3."""
    mirrored: bool
    """The picture had to be mirrored to fit."""
    changed_share: float
    """Share of the thumbnail that differs in content, 0..1."""
    largest_difference: float
    """Largest local difference in multiples of what misregistration and compression explain."""
    changed: npt.NDArray[np.bool_]
    """Where it differs, turned back to the picture's orientation."""
    crop_correlation: float
    """Best correlation of the whole picture with a part of the thumbnail, where the framing differs; else 0."""

    @property
    def same_scene(self) -> bool:
        """The thumbnail shows the picture in the picture's framing."""
        return self.correlation >= SAME_SCENE

    @property
    def locally_changed(self) -> bool:
        """Same scene, but a part shows something else."""
        size = int(self.changed.sum())
        return self.same_scene and size >= max(_MIN_CHANGED_PX, _MIN_CHANGED_SHARE * self.changed.size)


def compare(thumbnail: FloatArray, luma: FloatArray) -> Comparison | None:
    """Compares a thumbnail with the picture.

    Args:
        thumbnail: grey values, 0..255.
        luma: luminance of the picture, shape (H, W), 0..255.

    Returns:
        None when one of them has too little contrast or size to compare.
    """
    if min(luma.shape) < MIN_SIDE_PX:
        return None
    shrink = max(thumbnail.shape) * 3 / max(luma.shape)
    if shrink < 1:
        luma = np.asarray(cv2.resize(luma, None, fx=shrink, fy=shrink, interpolation=cv2.INTER_AREA), dtype=np.float32)
    best = max(_candidates(thumbnail, luma), key=lambda candidate: candidate.correlation)
    if min(float(best.small.std()), float(best.reference.std())) < MIN_CONTRAST:
        return None
    return _aligned(best, thumbnail, luma)


@dataclass(frozen=True, eq=False)
class _Candidate:
    small: FloatArray
    reference: FloatArray
    turns: int
    mirrored: bool

    @property
    def correlation(self) -> float:
        return _correlation(self.small, self.reference)


def _candidates(thumbnail: FloatArray, luma: FloatArray) -> Iterator[_Candidate]:
    """Every orientation, with and without the black bars that cameras add to give all thumbnails one shape."""
    for mirrored in (False, True):
        flipped = luma[:, ::-1] if mirrored else luma
        for turns in range(4):
            turned = np.ascontiguousarray(np.rot90(flipped, turns))
            for small in _bar_variants(thumbnail, turned.shape[1] / turned.shape[0]):
                size = (small.shape[1], small.shape[0])
                reference = np.asarray(cv2.resize(turned, size, interpolation=cv2.INTER_AREA), dtype=np.float32)
                yield _Candidate(small, reference, turns, mirrored)


def _bar_variants(thumbnail: FloatArray, aspect: float) -> Iterator[FloatArray]:
    yield thumbnail
    height, width = thumbnail.shape
    if width / height < aspect:
        rows, columns = max(round(width / aspect), 1), width
    else:
        rows, columns = height, max(round(height * aspect), 1)
    top, left = (height - rows) // 2, (width - columns) // 2
    framed = thumbnail[top : top + rows, left : left + columns]
    if (top >= 2 or left >= 2) and min(framed.shape) >= MIN_SIDE_PX // 2:
        yield np.ascontiguousarray(framed)
    bright = thumbnail > _BAR_LEVEL
    used_rows, used_columns = np.flatnonzero(bright.mean(axis=1) > 0.1), np.flatnonzero(bright.mean(axis=0) > 0.1)
    if len(used_rows) >= MIN_SIDE_PX // 2 and len(used_columns) >= MIN_SIDE_PX // 2:
        inside = thumbnail[used_rows[0] : used_rows[-1] + 1, used_columns[0] : used_columns[-1] + 1]
        if inside.shape != thumbnail.shape:
            yield np.ascontiguousarray(inside)


def _correlation(a: FloatArray, b: FloatArray) -> float:
    a, b = a - a.mean(), b - b.mean()
    power = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / power if power > 1e-6 else 0.0


def _aligned(best: _Candidate, thumbnail: FloatArray, luma: FloatArray) -> Comparison:
    small, reference = best.small, _registered(best.small, best.reference)
    difference = _difference(small, reference)
    border = max(4, round(0.05 * min(small.shape)))
    changed = np.zeros(difference.shape, dtype=bool)
    inner = difference[border:-border, border:-border]
    changed[border:-border, border:-border] = inner > 1.0
    back = np.rot90(changed, -best.turns)
    correlation = _correlation(small, reference)
    return Comparison(
        correlation=correlation,
        quarter_turns=best.turns,
        mirrored=best.mirrored,
        changed_share=float(changed.mean()),
        largest_difference=float(inner.max()) if inner.size else 0.0,
        changed=back[:, ::-1] if best.mirrored else back,
        crop_correlation=_crop_correlation(thumbnail, luma) if correlation < SAME_SCENE else 0.0,
    )


def _registered(small: FloatArray, reference: FloatArray) -> FloatArray:
    """The reference moved onto the thumbnail by an affine map (Evangelidis and Psarakis 2008), if that fits better."""
    try:
        _, warp = cv2.findTransformECC(
            small, reference, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, _ECC, np.ones(small.shape, np.uint8), 5
        )
    except cv2.error:  # no convergence: compared as they lie
        return reference
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    size = (small.shape[1], small.shape[0])
    moved = np.asarray(cv2.warpAffine(reference, warp, size, flags=flags, borderMode=cv2.BORDER_REPLICATE), np.float32)
    return moved if _correlation(small, moved) > _correlation(small, reference) else reference


def _difference(small: FloatArray, reference: FloatArray) -> FloatArray:
    """Local mean difference after the best tone curve, in multiples of its tolerance.

    The tolerance grows with the local contrast of both, because half a pixel of misregistration and the thumbnail's
    own sharpening and compression cost that much.
    """
    fitted = _tone_fit(reference, small)
    window = (_WINDOW, _WINDOW)
    mean = np.abs(cv2.blur(small - fitted, window))
    spread = np.sqrt(np.maximum(cv2.blur(fitted * fitted, window) - cv2.blur(fitted, window) ** 2, 0))
    noise = 1.4826 * float(np.median(np.abs(small - fitted)))
    return np.asarray(mean / (20.0 + 1.5 * spread + 3.0 * noise), dtype=np.float32)


def _tone_fit(source: FloatArray, target: FloatArray) -> FloatArray:
    """Source mapped through the quadratic tone curve that fits the target's unchanged part.

    First a straight line by least absolute deviations, then a parabola on what lies near it: a new object whose tone
    occurs nowhere else must not bend the curve.
    """
    x, goal = source.ravel() / 255.0, target.ravel()
    weights = np.ones_like(goal)
    line = np.zeros(2)
    for _ in range(8):
        line = np.polyfit(x, goal, 1, w=weights)
        weights = 1.0 / np.sqrt(np.maximum(np.abs(goal - np.polyval(line, x)), 2.0))
    residual = np.abs(goal - np.polyval(line, x))
    near = residual < max(3 * 1.4826 * float(np.median(residual)), 12.0)
    curve = np.polyfit(x[near], goal[near], 2)
    return np.asarray(np.clip(np.polyval(curve, source / 255.0), 0, 255), dtype=np.float32)


def _crop_correlation(thumbnail: FloatArray, luma: FloatArray) -> float:
    """Best match of the whole picture inside the thumbnail over scales of 0.3 to 0.95 of the largest that fits."""
    height, width = thumbnail.shape
    fit = min(height / luma.shape[0], width / luma.shape[1])
    best = 0.0
    for scale in _CROP_SCALES:
        rows, columns = round(luma.shape[0] * fit * scale), round(luma.shape[1] * fit * scale)
        if min(rows, columns) < MIN_SIDE_PX // 2:
            continue
        template = np.asarray(cv2.resize(luma, (columns, rows), interpolation=cv2.INTER_AREA), dtype=np.float32)
        if float(template.std()) < MIN_CONTRAST:
            continue
        best = max(best, float(cv2.matchTemplate(thumbnail, template, cv2.TM_CCOEFF_NORMED).max()))
    return best
