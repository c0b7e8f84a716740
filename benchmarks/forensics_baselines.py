"""Simple and earlier methods beside the four tools: ELA, NOI1-style noise map, SIFT copy-move, the EXIF rule."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from vision_service.domain import HeatMap, Observation, Outcome, Test, Tool, ToolName, not_applicable
from vision_service.substrate import Substrate

SUITE = "benchmarks.forensics_baselines:TOOL"
"""Where `labelled.observe_all` finds the baselines."""

MIN_SIDE_PX = 64
MAX_KEYPOINTS = 4000

FloatArray = npt.NDArray[np.float32]


def _tested(score: float, *, detected: bool, test_id: str, heat_map: HeatMap | None = None) -> Observation:
    key = f"{test_id}.{'detected' if detected else 'not_detected'}"
    return Observation(Outcome.TESTED, score=score, detected=detected, explanation_key=key, heat_map=heat_map)


def _cells(values: FloatArray, cell_px: int) -> HeatMap:
    top = max(float(np.percentile(values, 99)), 1e-6)
    return HeatMap(np.rint(np.clip(values / top, 0, 1) * 255).astype(np.uint8), cell_px, "strength of the baseline")


def _cell_means(values: FloatArray, cell_px: int) -> FloatArray:
    height, width = values.shape
    size = (-(-width // cell_px), -(-height // cell_px))
    return np.asarray(cv2.resize(values, size, interpolation=cv2.INTER_AREA), np.float32)


def ela(substrate: Substrate) -> Observation:
    """Error level analysis (Krawetz 2007): mean absolute difference to a JPEG copy of quality 90, grey levels."""
    if min(substrate.height_px, substrate.width_px) < MIN_SIDE_PX:
        return not_applicable("too_small", "the picture is too small")
    buffer = io.BytesIO()
    Image.fromarray(substrate.rgb).save(buffer, "JPEG", quality=90)
    difference = cv2.absdiff(substrate.rgb, np.asarray(Image.open(buffer))).astype(np.float32).mean(2)
    heat_map = _cells(_cell_means(difference, 8), 8)
    return _tested(float(difference.mean()), detected=False, test_id="baseline.ela", heat_map=heat_map)


def noi1(substrate: Substrate) -> Observation:
    """Noise level per 8 px block by the median absolute diagonal wavelet detail (Mahdian and Saic 2009), NOI1-style.

    Score: largest robust deviation of a smoothed block level from the picture's median.
    """
    if min(substrate.height_px, substrate.width_px) < MIN_SIDE_PX:
        return not_applicable("too_small", "the picture is too small")
    y = substrate.luma.cpu().numpy()
    y = y[: y.shape[0] // 8 * 8, : y.shape[1] // 8 * 8]
    detail = np.abs(y[0::2, 0::2] - y[0::2, 1::2] - y[1::2, 0::2] + y[1::2, 1::2]) / 2
    blocks = detail.reshape(detail.shape[0] // 4, 4, -1, 4).transpose(0, 2, 1, 3).reshape(-1, detail.shape[1] // 4, 16)
    level = cv2.medianBlur(np.asarray(np.median(blocks, 2) / 0.6745, np.float32), 5)
    deviation = np.abs(level - np.median(level))
    spread = max(float(np.median(deviation)) * 1.4826, 0.1)
    score = float(np.percentile(deviation, 99) / spread)
    return _tested(score, detected=False, test_id="baseline.noi1", heat_map=_cells(deviation, 8))


def sift_copy_move(substrate: Substrate) -> Observation:
    """Naive copy-move: SIFT, ratio test 0.6 among the picture's own features, affine RANSAC; score: inliers."""
    grey = np.rint(substrate.luma.cpu().numpy()).astype(np.uint8)
    if min(grey.shape) < MIN_SIDE_PX:
        return not_applicable("too_small", "the picture is too small")
    scale = min(1.0, 1600 / max(grey.shape))
    if scale < 1:
        grey = np.asarray(cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA), np.uint8)
    points, descriptors = cv2.SIFT_create(nfeatures=MAX_KEYPOINTS).detectAndCompute(grey, None)  # type: ignore[attr-defined]
    if descriptors is None or len(points) < 8:
        return _tested(0.0, detected=False, test_id="baseline.sift_copy_move")
    places = np.array([p.pt for p in points], np.float32)
    pairs = [
        (first.queryIdx, first.trainIdx)
        for _, first, second in cv2.BFMatcher().knnMatch(descriptors, descriptors, k=3)
        if first.distance < 0.6 * second.distance
    ]
    pairs = [(a, b) for a, b in pairs if a < b and float(np.hypot(*(places[a] - places[b]))) > 16]
    inliers = 0
    if len(pairs) >= 4:
        index = np.array(pairs)
        cv2.setRNGSeed(0)
        _, kept = cv2.estimateAffinePartial2D(places[index[:, 0]], places[index[:, 1]], ransacReprojThreshold=3.0)
        inliers = int(kept.sum()) if kept is not None else 0
    return _tested(float(inliers), detected=inliers >= 8, test_id="baseline.sift_copy_move")


def no_exif(substrate: Substrate) -> Observation:
    """The rule "no EXIF camera make, hence AI generated"; score 1 when it accuses."""
    absent = not substrate.container.exif.get("Make")
    return _tested(float(absent), detected=absent, test_id="baseline.no_exif")


TOOL = Tool(
    ToolName.SPATIAL,
    "0.1.0",
    (
        Test("baseline.ela", "Mean error level.", "Krawetz: Black Hat 2007", ela),
        Test("baseline.noi1", "Deviating noise level.", "Mahdian, Saic: IVC 2009", noi1),
        Test("baseline.sift_copy_move", "Repeated features.", "Amerini et al.: TIFS 2011", sift_copy_move),
        Test("baseline.no_exif", "Missing camera make.", "a rule of earlier systems", no_exif),
    ),
)
"""The baselines in the form of a tool."""
