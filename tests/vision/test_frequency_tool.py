"""The rest of the frequency tool: history, resampling, ghosts, peaks, and its behaviour on odd pictures."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.domain import Outcome
from vision_service.substrate import Substrate
from vision_service.tools.frequency import (
    TOOL,
    double_jpeg_shifted,
    ela,
    jpeg_ghost,
    resampling,
    upsampling_peaks,
)
from vision_service.tools.frequency.requantised import QUALITIES, losses

ToSubstrate = Callable[[bytes], Substrate]


def _numbers(seen: object) -> dict[str, float]:
    return {m.name: m.value for m in seen.measurements}  # type: ignore[attr-defined]


def test_block_sums_are_sums_of_blocks() -> None:
    luma = torch.from_numpy(camera.photo(32, 40, 1)[:, :, 1].astype(np.float32))
    sums = double_jpeg_shifted.block_sums(luma)
    assert sums.shape == (25, 33)
    assert int(sums[3, 5]) == int(luma[3:11, 5:13].sum())


def test_crop_after_a_first_compression_is_history_with_its_grid(to_substrate: ToSubstrate) -> None:
    first = camera.from_file(camera.to_jpeg(camera.photo(520, 520, 4), 60))
    seen = double_jpeg_shifted.run(to_substrate(camera.to_jpeg(np.ascontiguousarray(first[3:, 6:]), 95)))
    assert seen.explanation_key == "frequency.double_jpeg_shifted.history"
    assert not seen.detected
    numbers = _numbers(seen)
    assert (numbers["earlier_grid_x"], numbers["earlier_grid_y"]) == (2.0, 5.0)


@pytest.mark.parametrize("quality", [70, 90, 98])
def test_single_compression_has_no_shifted_history(to_substrate: ToSubstrate, quality: int) -> None:
    for seed in range(4):
        seen = double_jpeg_shifted.run(to_substrate(camera.to_jpeg(camera.photo(320, 320, 20 + seed), quality)))
        assert seen.explanation_key == "frequency.double_jpeg_shifted.not_detected"


def test_losses_are_those_of_a_requantisation(to_substrate: ToSubstrate) -> None:
    found = losses(to_substrate(camera.to_png(camera.photo(64, 64, 2))))
    assert found is not None
    assert found.values.shape == (len(QUALITIES), 8, 8)
    assert (np.diff(found.values.mean(axis=(1, 2))) < 0).all()  # a finer quantisation loses less


def test_ghost_of_a_pasted_part_stands_out(to_substrate: ToSubstrate) -> None:
    host = camera.photo(384, 384, 5).copy()
    host[128:256, 128:256] = camera.from_file(camera.to_jpeg(camera.photo(384, 384, 6), 65))[128:256, 128:256]
    pasted = jpeg_ghost.run(to_substrate(camera.to_png(host)))
    genuine = jpeg_ghost.run(to_substrate(camera.to_png(camera.photo(384, 384, 5))))
    assert pasted.score > 2 * genuine.score
    assert _numbers(pasted)["ghost_quality"] == 65
    assert not pasted.detected


def test_ela_is_a_picture_and_never_evidence(to_substrate: ToSubstrate) -> None:
    seen = ela.run(to_substrate(camera.to_jpeg(camera.photo(128, 136, 7), 90)))
    assert seen.score == 0
    assert not seen.detected
    assert seen.heat_map is not None
    assert seen.heat_map.values.shape == (16, 17)
    assert not seen.heat_map.significant


def _enlarged_part(factor: float) -> camera.ByteArray:
    host = camera.photo(1024, 1024, 8).copy()
    donor = camera.photo(400, 400, 9)
    part = cv2.resize(donor, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
    host[128:576, 128:576] = part[:448, :448]
    return host


def test_enlarged_part_is_found(to_substrate: ToSubstrate) -> None:
    seen = resampling.run(to_substrate(camera.to_png(_enlarged_part(1.3))))
    assert seen.detected
    box = seen.regions[0]
    assert box.x_px <= 256
    assert box.x_px + box.width_px >= 448
    frequency = _numbers(seen)["tile_period_frequency"]
    assert min(abs(frequency - f) for f in (1 / 1.3, 1 - 1 / 1.3, 2 / 1.3 - 1)) < 0.01


def test_picture_enlarged_all_over_is_no_alarm(to_substrate: ToSubstrate) -> None:
    rgb = cv2.resize(camera.photo(600, 600, 10), None, fx=1.3, fy=1.3, interpolation=cv2.INTER_LINEAR)
    assert not resampling.run(to_substrate(camera.to_png(rgb.astype(np.uint8)))).detected


@pytest.mark.parametrize("quality", [0, 90])
def test_genuine_pictures_have_no_resampled_part(to_substrate: ToSubstrate, quality: int) -> None:
    for seed in range(3):
        rgb = camera.photo(640, 640, 30 + seed)
        data = camera.to_jpeg(rgb, quality) if quality else camera.to_png(rgb)
        assert not resampling.run(to_substrate(data)).detected


def test_peaks_of_patchwise_upsampling_are_found(to_substrate: ToSubstrate) -> None:
    rgb = camera.photo(640, 640, 11).astype(np.float64)
    tile = np.random.default_rng(0).normal(0, 3.0, (16, 16, 1))
    rgb += np.tile(tile, (40, 40, 1))
    data = camera.to_png(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))
    assert upsampling_peaks.run(to_substrate(data)).detected


@pytest.mark.parametrize("quality", [0, 60, 90])
def test_camera_pictures_and_their_jpegs_have_no_upsampling_peaks(to_substrate: ToSubstrate, quality: int) -> None:
    for seed in range(3):
        rgb = camera.photo(520, 520, 40 + seed)
        data = camera.to_jpeg(rgb, quality) if quality else camera.to_png(rgb)
        assert not upsampling_peaks.run(to_substrate(data)).detected


def test_tool_has_its_seven_tests_in_fixed_order() -> None:
    assert [test.id for test in TOOL.tests] == [
        f"frequency.{name}"
        for name in (
            "foreign_grid",
            "double_jpeg",
            "double_jpeg_shifted",
            "jpeg_ghost",
            "resampling",
            "upsampling_peaks",
            "ela",
        )
    ]


def _odd_pictures() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(12)
    return {
        "1x1": np.zeros((1, 1, 3), np.uint8),
        "8000x1": np.full((1, 8000, 3), 77, np.uint8),
        "1x3000": np.full((3000, 1, 3), 77, np.uint8),
        "black": np.zeros((300, 420, 3), np.uint8),
        "white": np.full((420, 300, 3), 255, np.uint8),
        "noise": rng.integers(0, 256, (400, 530, 3)).astype(np.uint8),
        "two levels": np.where(rng.random((400, 400, 1)) < 0.5, 0, 255).repeat(3, 2).astype(np.uint8),
        "ramp": np.broadcast_to(np.arange(512, dtype=np.uint8)[None, :, None], (300, 512, 3)).copy(),
        "narrow": camera.photo(18, 2000, 13),
    }


@pytest.mark.parametrize("name", list(_odd_pictures()))
@pytest.mark.parametrize("jpeg", [False, True])
def test_odd_pictures_are_answered_without_alarm(to_substrate: ToSubstrate, name: str, jpeg: bool) -> None:
    rgb = _odd_pictures()[name]
    substrate = to_substrate(camera.to_jpeg(rgb, 85) if jpeg else camera.to_png(rgb))
    for test in TOOL.tests:
        seen = test.run(substrate)
        assert seen.outcome in {Outcome.TESTED, Outcome.NOT_APPLICABLE}
        assert seen.explanation_key.startswith((f"{test.id}.", "not_applicable."))
        assert not seen.detected
        assert np.isfinite([seen.score, *(m.value for m in seen.measurements)]).all()
        if seen.heat_map is not None:
            assert seen.heat_map.values.shape == (-(-rgb.shape[0] // 8), -(-rgb.shape[1] // 8))
            assert seen.heat_map.values.dtype == np.uint8
