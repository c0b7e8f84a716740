"""noise.prnu on simulated sensors whose pattern is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import camera
from serving.errors import MaifsError, Reason
from vision_service.substrate import Substrate
from vision_service.tools.noise.prnu import (
    PCE_THRESHOLD,
    PRNU,
    Fingerprint,
    estimate_fingerprint,
    load_fingerprint,
    match,
    noise_residual,
    prnu_test,
)

Decoder = Callable[[bytes], Substrate]
SHAPE = (256, 320)


def exposure(pattern: np.ndarray, seed: int) -> np.ndarray:
    """A natural scene seen by a sensor with a multiplicative pattern and white noise, whole grey levels."""
    rng = np.random.default_rng(seed)
    scene = cv2.cvtColor(camera.scene(*SHAPE, rng, leaves=60), cv2.COLOR_RGB2GRAY) * 150 + 50
    seen = np.rint(scene * (1 + pattern) + rng.normal(0, 1.5, SHAPE))
    return np.asarray(np.clip(seen, 0, 255), dtype=np.float32)


@pytest.fixture(scope="module")
def sensors() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.random.default_rng(7).normal(0, 0.02, (2, *SHAPE)).astype(np.float32)
    return first, second


@pytest.fixture(scope="module")
def fingerprint(sensors: tuple[np.ndarray, np.ndarray]) -> Fingerprint:
    return estimate_fingerprint((exposure(sensors[0], seed) for seed in range(15)), "first")


def test_the_estimate_resembles_the_true_pattern(
    sensors: tuple[np.ndarray, np.ndarray], fingerprint: Fingerprint
) -> None:
    true, foreign = (float(np.corrcoef(s.ravel(), fingerprint.pattern.ravel())[0, 1]) for s in sensors)
    assert true > 0.6
    assert abs(foreign) < 0.02


def test_a_picture_of_the_sensor_matches_and_others_do_not(
    sensors: tuple[np.ndarray, np.ndarray], fingerprint: Fingerprint
) -> None:
    own, foreign = (
        [match(noise_residual(luma), luma, fingerprint).pce for luma in (exposure(s, seed) for seed in range(50, 60))]
        for s in sensors
    )
    assert min(own) > PCE_THRESHOLD
    assert max(foreign) < 20


def test_a_crop_is_found_at_its_place(sensors: tuple[np.ndarray, np.ndarray], fingerprint: Fingerprint) -> None:
    luma = exposure(sensors[0], 61)[40:210, 75:290]
    found = match(noise_residual(luma), luma, fingerprint)
    assert found.pce > PCE_THRESHOLD
    assert (found.row_shift_px, found.column_shift_px) == (40, 75)


def test_the_test_reports_the_match(
    sensors: tuple[np.ndarray, np.ndarray], fingerprint: Fingerprint, to_substrate: Decoder
) -> None:
    grey = exposure(sensors[0], 62).astype(np.uint8)
    seen = prnu_test(fingerprint).run(to_substrate(camera.to_png(np.repeat(grey[:, :, None], 3, axis=2))))
    assert seen.detected
    assert seen.score < -np.log10(PCE_THRESHOLD)
    assert seen.log10_nfa is not None
    assert seen.log10_nfa < -9
    assert seen.explanation_key == "noise.prnu.detected"


def test_the_false_alarms_of_a_peak_are_those_of_a_normal_number_at_each_shift() -> None:
    rng = np.random.default_rng(5)
    fingerprint = Fingerprint(rng.normal(0, 0.01, (160, 176)).astype(np.float32))
    luma = np.full((160, 176), 128, np.float32)
    energies = [match(rng.normal(0, 2, luma.shape).astype(np.float32), luma, fingerprint) for _ in range(400)]
    stated = np.sort([10**found.log10_nfa for found in energies])
    assert np.abs(stated - (np.arange(400) + 0.5) / 400).max() < 1.63 / 20  # Kolmogorov-Smirnov, 1 %
    crop = match(rng.normal(0, 2, (130, 140)).astype(np.float32), luma[:130, :140], fingerprint)
    assert crop.shifts == 31 * 37
    assert 10**crop.log10_nfa == pytest.approx(31 * 37 * 0.5 * math.erfc(math.sqrt(crop.pce / 2)))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_flat_pictures_do_not_match(value: int, fingerprint: Fingerprint, to_substrate: Decoder) -> None:
    data = camera.to_png(np.full((*SHAPE, 3), value, dtype=np.uint8))
    seen = prnu_test(fingerprint).run(to_substrate(data))
    assert not seen.detected
    assert seen.score == 0.0


def test_pictures_that_cannot_be_compared_are_not_applicable(fingerprint: Fingerprint, to_substrate: Decoder) -> None:
    picture = to_substrate(camera.to_png(np.full((300, 400, 3), 90, dtype=np.uint8)))
    assert PRNU.run(picture).explanation_key == "not_applicable.no_reference"
    assert prnu_test(fingerprint).run(picture).explanation_key == "not_applicable.size_mismatch"


def test_a_fingerprint_survives_its_file(fingerprint: Fingerprint, tmp_path: Path) -> None:
    np.savez(tmp_path / "first.npz", pattern=fingerprint.pattern, camera="first")
    np.save(tmp_path / "first.npy", fingerprint.pattern)
    for name, known in (("first.npz", "first"), ("first.npy", "")):
        loaded = load_fingerprint(tmp_path / name)
        np.testing.assert_array_equal(loaded.pattern, fingerprint.pattern)
        assert loaded.camera == known


def test_files_that_are_no_fingerprint_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "cube.npy", np.zeros((200, 200, 3)))
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "other.npz", other=np.zeros((200, 200)))
    (tmp_path / "text.npy").write_text("no array")
    for name in ("cube.npy", "objects.npy", "other.npz", "text.npy"):
        with pytest.raises(MaifsError) as refused:
            load_fingerprint(tmp_path / name)
        assert refused.value.reason is Reason.INVALID_CONFIG
    with pytest.raises(MaifsError) as refused:
        load_fingerprint(tmp_path / "absent.npy")
    assert refused.value.reason is Reason.FILE_UNREADABLE


def test_no_picture_gives_no_fingerprint() -> None:
    with pytest.raises(ValueError, match="no picture"):
        estimate_fingerprint([])
