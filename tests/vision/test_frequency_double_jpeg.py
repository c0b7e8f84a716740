"""Double JPEG on one grid: the comb against a simulation, edits found, doubly compressed pictures left alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.frequency import double_jpeg
from vision_service.tools.frequency.double_jpeg_model import STEPS, comb_ratios, fit_comb, smooth_fit
from vision_service.tools.frequency.shared import clipped_blocks

ToSubstrate = Callable[[bytes], Substrate]


def _quantised(q1: int, q2: int, alpha: float, seed: int = 0) -> np.ndarray:
    """Laplacian coefficients, a share alpha of them quantised by q1 first and disturbed by rounding."""
    rng = np.random.default_rng(seed)
    values = rng.laplace(0, 12, 60_000)
    twice = rng.random(values.size) < alpha
    first = q1 * np.rint(values / q1) + rng.normal(0, 0.5, values.size)
    return np.rint(np.where(twice, first, values) / q2).astype(np.int64)


def _counts(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.minimum(np.abs(values), 81), minlength=82).astype(np.float64)


def _painted(first: int, last: int, *, seed: int = 3) -> bytes:
    """A picture of the first quality with a never compressed 128 x 128 px part, saved at the last quality."""
    rgb = camera.from_file(camera.to_jpeg(camera.photo(320, 320, seed), first)).copy()
    rgb[96:224, 64:192] = camera.photo(320, 320, seed + 50)[96:224, 64:192]
    return camera.to_jpeg(rgb, last)


@pytest.mark.parametrize(("q1", "q2"), [(7, 2), (5, 3), (3, 4), (12, 5)])
def test_comb_agrees_with_simulated_double_quantisation(q1: int, q2: int) -> None:
    rng = np.random.default_rng(1)
    flat = rng.uniform(-400, 400, 2_000_000)
    twice = np.rint((q1 * np.rint(flat / q1) + rng.normal(0, 0.5, flat.size)) / q2)
    expected = np.bincount(np.abs(twice).astype(int), minlength=20)[1:16] / (2 * flat.size / 800 * q2)
    assert np.allclose(comb_ratios(q2, 15)[q1 - STEPS[0]], expected, atol=0.06)


def test_smooth_fit_follows_a_smooth_curve_and_reports_misfit() -> None:
    x = np.arange(1, 41)
    smooth = 5000 * np.exp(-0.15 * x)
    rng = np.random.default_rng(2)
    _, mean, misfit = smooth_fit(
        np.stack([rng.poisson(smooth), rng.poisson(smooth * (1 + 0.9 * (-1.0) ** x))]), np.zeros(1)
    )
    assert np.allclose(mean[0][:20], smooth[:20], rtol=0.15)
    assert misfit[0] < 2.5
    assert misfit[1] > 20


@pytest.mark.parametrize(("q1", "q2", "alpha"), [(7, 2, 1.0), (6, 2, 0.6), (9, 4, 0.8), (5, 3, 1.0)])
def test_first_step_and_share_are_estimated(q1: int, q2: int, alpha: float) -> None:
    comb = fit_comb(q2, _counts(_quantised(q1, q2, alpha)))
    assert comb is not None
    assert comb.q1 == q1
    assert comb.alpha == pytest.approx(alpha, abs=0.12)
    assert comb.gain > 20


def test_single_quantisation_gains_nothing() -> None:
    gains = [
        comb.gain for q2 in range(1, 9) for seed in range(25)
        if (comb := fit_comb(q2, _counts(_quantised(1, q2, 0.0, seed)))) is not None
    ]  # fmt: skip
    assert max(gains) < 12


@pytest.mark.parametrize(("first", "last"), [(70, 92), (60, 85)])
def test_part_compressed_once_is_found_where_it_is(to_substrate: ToSubstrate, first: int, last: int) -> None:
    seen = double_jpeg.run(to_substrate(_painted(first, last)))
    assert seen.detected
    assert seen.explanation_key == "frequency.double_jpeg.detected"
    assert seen.heat_map is not None
    assert seen.heat_map.significant
    lit = seen.heat_map.values > 0
    truth = np.zeros((40, 40), dtype=bool)
    truth[12:28, 8:24] = True
    assert 2 * (lit & truth).sum() / (lit.sum() + truth.sum()) > 0.7
    numbers = {m.name: m.value for m in seen.measurements}
    assert numbers["first_quality"] == pytest.approx(first, abs=3)


@pytest.mark.parametrize("qualities", [(90,), (70, 92), (60, 85), (85, 75), (75, 75)])
def test_one_history_all_over_is_no_alarm(to_substrate: ToSubstrate, qualities: tuple[int, ...]) -> None:
    for seed in range(8):
        rgb = camera.photo(256, 256, 200 + seed)
        for quality in qualities[:-1]:
            rgb = camera.from_file(camera.to_jpeg(rgb, quality))
        assert not double_jpeg.run(to_substrate(camera.to_jpeg(rgb, qualities[-1]))).detected


def test_clipped_colours_are_no_edit(to_substrate: ToSubstrate) -> None:
    for seed in range(6):
        rgb = camera.photo(256, 256, 300 + seed).astype(np.float64)
        rgb[64:192, 64:192, 0] = rgb[64:192, 64:192, 0] * 1.6 - 160  # red falls to 0 in a part, as in deep blue cloth
        clipped = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
        data = camera.to_jpeg(camera.from_file(camera.to_jpeg(clipped, 70)), 92)
        assert not double_jpeg.run(to_substrate(data)).detected


def test_clipped_blocks_are_those_with_an_extreme_channel(to_substrate: ToSubstrate) -> None:
    rgb = np.full((24, 40, 3), 100, np.uint8)
    rgb[9, 17, 2] = 255
    rgb[23, 39, 0] = 0
    expected = np.zeros((3, 5), dtype=bool)
    expected[1, 2] = expected[2, 4] = True
    assert np.array_equal(clipped_blocks(to_substrate(camera.to_png(rgb))), expected)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_jpeg_is_answered(to_substrate: ToSubstrate, level: int) -> None:
    seen = double_jpeg.run(to_substrate(camera.to_jpeg(np.full((200, 200, 3), level, np.uint8))))
    assert not seen.detected
    assert seen.score == 0


def test_not_applicable_says_why(to_substrate: ToSubstrate) -> None:
    png = double_jpeg.run(to_substrate(camera.to_png(np.zeros((200, 200, 3), np.uint8))))
    small = double_jpeg.run(to_substrate(camera.to_jpeg(np.zeros((1, 1, 3), np.uint8))))
    assert png.explanation_key == "not_applicable.not_jpeg"
    assert small.explanation_key == "not_applicable.too_small"
    assert "PNG" in png.reason


def test_no_alarm_on_labelled_authentic_photos(shared_data: Path, to_substrate: ToSubstrate) -> None:
    import csv

    with (shared_data / "photos" / "manifest.csv").open() as file:
        names = [
            row["file"] for row in csv.DictReader(file) if row["label"] == "authentic" and row["source"] == "imd2020"
        ]
    alarms = sum(double_jpeg.run(to_substrate((shared_data / "photos" / n).read_bytes())).detected for n in names[:12])
    assert alarms == 0
