"""Copy-move: known pastes are found and mapped, look-alikes and genuine pictures are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import camera
from vision_service.domain import Outcome
from vision_service.substrate import Substrate
from vision_service.tools.spatial import copy_move

Bytes = npt.NDArray[np.uint8]
Decode = Callable[[bytes], Substrate]


def pasted(
    rgb: Bytes, linear: npt.NDArray[np.float64], shift: tuple[float, float]
) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Pastes the ellipse around (100, 110) through the transform x -> linear (x - c) + c + shift; with both places."""
    height, width = rgb.shape[:2]
    centre = np.array([100.0, 110.0])
    matrix = np.hstack([linear, (centre + shift - linear @ centre)[:, None]])
    here = np.zeros((height, width), np.uint8)
    cv2.ellipse(here, (100, 110), (52, 44), 0, 0, 360, 1, -1)
    there = cv2.warpAffine(here, matrix, (width, height), flags=cv2.INTER_NEAREST)
    moved = cv2.warpAffine(rgb, matrix, (width, height), flags=cv2.INTER_CUBIC)
    forged = np.where(there[:, :, None] > 0, moved, rgb).astype(np.uint8)
    return forged, np.asarray((here > 0) | (there > 0))


def overlap(observed: npt.NDArray[np.uint8], truth: npt.NDArray[np.bool_]) -> float:
    """Pixel F1 of a map of 8 px cells."""
    found = (observed > 0).repeat(8, 0).repeat(8, 1)[: truth.shape[0], : truth.shape[1]]
    return float(2 * (found & truth).sum() / (found.sum() + truth.sum()))


@pytest.mark.parametrize("quality", [None, 95])
def test_a_translated_copy_is_found_and_mapped(quality: int | None, to_substrate: Decode) -> None:
    forged, truth = pasted(camera.photo(360, 480, 1), np.eye(2), (203, 117))
    data = camera.to_png(forged) if quality is None else camera.to_jpeg(forged, quality)
    seen = copy_move.run(to_substrate(data))
    assert seen.detected
    assert seen.explanation_key == "spatial.copy_move.detected"
    assert seen.heat_map is not None
    assert seen.heat_map.significant
    assert overlap(seen.heat_map.values, truth) > 0.8
    values = {m.name: m.value for m in seen.measurements}
    assert (abs(values["shift_x"]), abs(values["shift_y"])) == pytest.approx((203, 117), abs=0.6)


def test_a_rotated_and_scaled_copy_is_found_and_mapped(to_substrate: Decode) -> None:
    angle, scale = np.radians(25), 1.15
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    forged, truth = pasted(camera.photo(360, 480, 2), linear, (220, 90))
    seen = copy_move.run(to_substrate(camera.to_png(forged)))
    assert seen.detected
    assert seen.heat_map is not None
    assert overlap(seen.heat_map.values, truth) > 0.75


def test_a_copy_of_smooth_sky_is_found_by_its_grain_alone(to_substrate: Decode) -> None:
    rng = np.random.default_rng(5)
    sky = camera.expose(np.full((360, 480, 3), 0.4, np.float32), rng, camera.Sensor(shot=1e-3))
    forged, truth = pasted(sky, np.eye(2), (200, 130))
    seen = copy_move.run(to_substrate(camera.to_png(forged)))
    assert seen.detected
    assert seen.heat_map is not None
    assert overlap(seen.heat_map.values, truth) > 0.8


def test_look_alikes_exposed_independently_are_not_copies(to_substrate: Decode) -> None:
    rng = np.random.default_rng(6)
    linear = camera.scene(360, 480, rng)
    linear[200:300, 250:400] = linear[40:140, 50:200]  # the same object twice in the scene, two exposures of it
    seen = copy_move.run(to_substrate(camera.to_png(camera.expose(linear, rng, camera.Sensor(shot=2e-3, read=4e-3)))))
    assert not seen.detected
    assert seen.heat_map is None
    assert seen.regions == ()


def test_a_window_front_is_not_a_copy(to_substrate: Decode) -> None:
    rng = np.random.default_rng(7)
    linear = np.full((256, 320, 3), 0.5, np.float32)
    for top in range(20, 230, 60):
        for left in range(20, 300, 50):
            linear[top : top + 36, left : left + 24] = 0.1
            linear[top + 16 : top + 19, left : left + 24] = 0.6
    linear = np.asarray(cv2.GaussianBlur(linear, (0, 0), 0.8), np.float32)
    for data in (camera.to_png(camera.expose(linear, rng)), camera.to_jpeg(camera.expose(linear, rng), 80)):
        assert not copy_move.run(to_substrate(data)).detected


@pytest.mark.parametrize("seed", range(12))
def test_genuine_pictures_raise_no_alarm(seed: int, to_substrate: Decode) -> None:
    rgb = camera.photo(192, 256, 100 + seed)
    data = camera.to_png(rgb) if seed % 3 == 0 else camera.to_jpeg(rgb, 60 + 3 * seed)
    assert not copy_move.run(to_substrate(data)).detected


@pytest.mark.parametrize("shape", [(1, 1), (1, 8000), (63, 300)])
def test_small_pictures_are_not_judged(shape: tuple[int, int], to_substrate: Decode) -> None:
    seen = copy_move.run(to_substrate(camera.to_png(np.full((*shape, 3), 90, np.uint8))))
    assert seen.outcome is Outcome.NOT_APPLICABLE
    assert seen.explanation_key == "not_applicable.too_small"


@pytest.mark.parametrize("kind", ["black", "white", "noise", "ramp", "stripes", "checks", "letters"])
def test_artificial_pictures_raise_no_alarm(kind: str, to_substrate: Decode) -> None:
    y, x = np.mgrid[0:200, 0:264]
    letters = np.full(x.shape, 240, np.uint8)
    for line in range(6):
        cv2.putText(letters, "report of the camera", (10, 30 + 30 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.6, 20, 1)
    grey = {
        "black": np.zeros_like(x),
        "white": np.full_like(x, 255),
        "noise": np.random.default_rng(3).integers(0, 256, x.shape),
        "ramp": x // 2,
        "stripes": 255 * (x // 5 % 2),
        "checks": 255 * ((x // 16 + y // 16) % 2),
        "letters": letters,
    }[kind]
    seen = copy_move.run(to_substrate(camera.to_png(np.repeat(grey[:, :, None], 3, 2).astype(np.uint8))))
    assert seen.outcome is (Outcome.TESTED if kind in {"noise", "ramp"} else Outcome.NOT_APPLICABLE)
    assert not seen.detected
    assert np.isfinite(seen.score)


def test_a_repeated_label_on_a_photograph_is_no_copy(to_substrate: Decode) -> None:
    rgb = camera.photo(360, 480, 12)
    for left, top in ((30, 40), (260, 50), (40, 250), (270, 260)):
        cv2.rectangle(rgb, (left, top), (left + 170, top + 60), (235, 235, 235), -1)
        cv2.putText(rgb, "CAMERA", (left + 12, top + 42), cv2.FONT_HERSHEY_SIMPLEX, 1.2, (20, 20, 20), 2)
    assert not copy_move.run(to_substrate(camera.to_jpeg(rgb, 90))).detected


def test_real_forgeries_are_found_and_their_originals_are_not(shared_data: Path, to_substrate: Decode) -> None:
    files = {"2844b84854dca64c.png": True, "2e049b": False}
    for name, forged in files.items():
        path = next((shared_data / "photos").glob(f"{name}*"))
        assert copy_move.run(to_substrate(path.read_bytes())).detected is forged
