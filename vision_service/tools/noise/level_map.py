"""noise.level_map: regions whose noise differs from the picture's own noise curve at equal brightness."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.noise import acontrario
from vision_service.tools.noise.blocks import BLOCK_PX, BlockStatistics, block_statistics

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

_MIN_TILES = 60
_MIN_NOISE = 0.15  # grey levels; less is rounding and quantisation, not the sensor
_MAX_NOISE = 8.0  # median of a picture; more is foliage or gravel everywhere, not a sensor
_DARK, _BRIGHT = 16.0, 240.0  # beyond, the tone curve squeezes the noise into the rounding
_MARK_Z = 2.5
_MARK_PROBABILITY = 0.0062  # P(N(0,1) > 2.5), one side
_MIN_RATIO = 1.25  # a smaller difference is within what sharpening and denoising do to one picture
_MIN_SIDE_PX = 128
_MIN_QUALITY = (
    85  # below, the steps of the high frequencies (30 and more) leave the quantiser's noise, not the sensor's
)
_TEXTURE_RATIO = 1.5  # quadrant deviation over noise: 0.25 for white noise, above 1 for content


@dataclass(frozen=True, eq=False)
class NoiseField:
    """Noise of the tiles relative to the picture's own curve; each array of shape (tile rows, tile columns)."""

    sigma: FloatArray
    """Lower-quartile noise of the tile's blocks, grey levels."""
    deviation: FloatArray
    """Robust z of log sigma against the curve; 0 where not usable."""
    log_ratio: FloatArray
    """Natural log of sigma over the curve; 0 where not usable."""
    usable: BoolArray
    """Flat, unclipped tiles with measurable noise."""
    spread: float
    """Robust standard deviation of log sigma about the curve."""
    tile_px: int
    """Side of a tile: 16 in pictures below 768 px on their short side, else 32."""


def noise_field(blocks: BlockStatistics) -> NoiseField | None:
    """Fits log sigma = f(intensity, texture) on the usable tiles and gives each tile's deviation.

    The curve is a running median over brightness after a linear regression on log texture: what remains of the
    content raises noise and texture together, and must not be read as noise.

    Returns:
        None when fewer than 60 tiles are usable, or their noise is beyond any sensor's.
    """
    side = 2 if min(blocks.mean.shape) < 96 else 4
    mean, texture = _tiles(blocks.mean, side, 0.5), _tiles(blocks.texture, side, 0.5)
    sigma, clipped = _tiles(blocks.noise, side, 0.25), _tiles(blocks.clipped, side, 1.0)
    usable = (clipped < 0.05) & (mean >= _DARK) & (mean <= _BRIGHT) & (sigma >= _MIN_NOISE)
    usable &= texture < _TEXTURE_RATIO * np.maximum(sigma, 1.0)
    if int(usable.sum()) < _MIN_TILES or float(np.median(sigma[usable])) > _MAX_NOISE:
        return None
    log_ratio = np.zeros_like(sigma)
    log_ratio[usable] = _residual_of_curve(mean[usable], np.log(texture[usable] + 0.1), np.log(sigma[usable]))
    spread = max(1.4826 * float(np.median(np.abs(log_ratio[usable]))), 0.03)
    deviation = log_ratio / spread
    return NoiseField(sigma, deviation, log_ratio, usable, spread, side * BLOCK_PX)


def _tiles(values: npt.NDArray[np.float32], side: int, quantile: float) -> FloatArray:
    """A quantile of the side x side blocks of each tile."""
    rows, columns = (length // side for length in values.shape)
    tiles = values[: rows * side, : columns * side].reshape(rows, side, columns, side)
    ordered = np.sort(tiles.transpose(0, 2, 1, 3).reshape(rows, columns, -1), axis=2)
    return ordered[:, :, round(quantile * (side**2 - 1))].astype(np.float64)


def _residual_of_curve(mean: FloatArray, log_texture: FloatArray, log_sigma: FloatArray) -> FloatArray:
    residual = log_sigma - _running_median(mean, log_sigma)
    centred = log_texture - _running_median(mean, log_texture)
    residual -= _robust_slope(centred, residual) * centred
    return np.asarray(residual - _running_median(mean, residual), dtype=np.float64)


def _running_median(key: FloatArray, values: FloatArray) -> FloatArray:
    """Median of `values` in 24 overlapping rank windows of `key`, interpolated at each key."""
    order = np.argsort(key, kind="stable")
    n, half = len(key), max(15, len(key) // 12)
    centres = np.unique(np.linspace(0, n - 1, 25).astype(int))
    medians = [float(np.median(values[order[max(0, c - half) : c + half + 1]])) for c in centres]
    ranks = np.empty(n)
    ranks[order] = np.arange(n)
    return np.asarray(np.interp(ranks, centres, medians), dtype=np.float64)


def _robust_slope(x: FloatArray, y: FloatArray) -> float:
    """Least squares on the inner 90 % of y, kept within 0..1: content can only add to noise."""
    inner = np.abs(y) <= np.quantile(np.abs(y), 0.9)
    energy = float((x[inner] ** 2).sum())
    return float(np.clip((x[inner] * y[inner]).sum() / energy, 0.0, 1.0)) if energy > 1e-9 else 0.0


@dataclass(frozen=True, eq=False)
class _Candidate:
    region: acontrario.CellRegion
    ratio: float
    """Noise of the region over that of the picture at equal brightness."""


def _candidates(field: NoiseField) -> list[_Candidate]:
    """Groups of too noisy or too clean tiles by rising NFA.

    The correlation that dilutes the counts is measured outside the group itself: where noise follows the content (an
    adaptive denoiser, depth of field) the rest of the picture shows it too, and the group stops being surprising.
    """
    tests = acontrario.log10_region_count(*field.usable.shape) + np.log10(2.0)
    found: list[_Candidate] = []
    for sign in (1.0, -1.0):
        marked = (sign * field.deviation > _MARK_Z) & field.usable
        groups = acontrario.strongest_groups(marked, field.usable, _MARK_PROBABILITY, log10_tests=tests, min_cells=4)
        for group in groups[:4]:
            ratio = float(np.exp(np.median(field.log_ratio[group.cells])))
            if max(ratio, 1 / ratio) >= _MIN_RATIO:
                found.append(_Candidate(_diluted(field, group, tests), ratio))
    return sorted(found, key=lambda candidate: candidate.region.log10_nfa)


def _diluted(field: NoiseField, group: acontrario.CellRegion, tests: float) -> acontrario.CellRegion:
    around = cv2.dilate(group.cells.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    area = acontrario.correlation_area(field.deviation, field.usable & ~around)
    return acontrario.strongest_groups(
        group.cells, field.usable, _MARK_PROBABILITY, log10_tests=tests, cells_per_sample=area
    )[0]


def _run(substrate: Substrate) -> Observation:
    if min(substrate.height_px, substrate.width_px) < _MIN_SIDE_PX:
        return not_applicable("too_small", f"the short side must have {_MIN_SIDE_PX} px for a noise map")
    quality = substrate.jpeg.quality if substrate.jpeg is not None else 100
    if quality < _MIN_QUALITY:
        return not_applicable("too_compressed", f"JPEG quality {quality} leaves no noise; {_MIN_QUALITY} is needed")
    field = noise_field(block_statistics(substrate.luma))
    if field is None:
        return not_applicable("no_flat_area", f"fewer than {_MIN_TILES} tiles are flat and show sensor noise")
    return _observation(substrate, field, _candidates(field))


def _observation(substrate: Substrate, field: NoiseField, candidates: list[_Candidate]) -> Observation:
    nfa = candidates[0].region.log10_nfa if candidates else None
    found = [c for c in candidates if c.region.log10_nfa < acontrario.DETECTION_LOG10_NFA]
    size = (substrate.width_px, substrate.height_px)
    if found:
        key = "noise.level_map.detected_noisier" if found[0].ratio > 1 else "noise.level_map.detected_cleaner"
    else:
        key = "noise.level_map.not_detected"
    ratio = candidates[0].ratio if candidates else 1.0
    return Observation(
        Outcome.TESTED,
        score=acontrario.score_of(nfa or 0.0),
        score_meaning="-log10 of the number of false alarms of the strongest region of foreign noise, 0..30",
        log10_nfa=nfa,
        detected=bool(found),
        explanation_key=key,
        measurements=(
            Measurement("median_noise", float(np.median(field.sigma[field.usable])), "grey levels"),
            Measurement("noise_ratio_of_strongest_region", ratio, "1"),
            Measurement("spread_of_log_noise", field.spread, "1"),
            Measurement("usable_share", float(field.usable.mean()), "1"),
        ),
        regions=tuple(acontrario.to_pixels(c.region.box, field.tile_px, *size) for c in found),
        heat_map=_heat_map(substrate, field),
    )


def _heat_map(substrate: Substrate, field: NoiseField) -> HeatMap:
    cell = field.tile_px
    shape = (-(-substrate.height_px // cell), -(-substrate.width_px // cell))
    values = np.zeros(shape, dtype=np.uint8)
    rows, columns = field.deviation.shape
    values[:rows, :columns] = np.clip(np.abs(field.deviation) * 32, 0, 255).astype(np.uint8)
    return HeatMap(values, cell, "Bright tiles are noisier or cleaner than the picture elsewhere at equal brightness.")


LEVEL_MAP = Test(
    id="noise.level_map",
    description="Regions noisier or cleaner than the picture's own noise curve at equal brightness",
    source="after Mahdian, Saic: Image Vis. Comput. 2009; Desolneux, Moisan, Morel: IJCV 2000 (a-contrario)",
    run=_run,
)
