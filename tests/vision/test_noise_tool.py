"""What every test of the noise tool promises, whatever the picture."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks import camera
from vision_service.domain import MAX_REGIONS, Observation, Outcome
from vision_service.substrate import Substrate
from vision_service.tools.noise import TOOL

Decoder = Callable[[bytes], Substrate]


def oddities() -> dict[str, camera.ByteArray]:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (600, 560, 3)).astype(np.uint8)
    half = noise.copy()
    half[:, 280:] = 255
    checkers = np.indices((560, 560)).sum(axis=0) % 2 * 255
    text = np.full((600, 640, 3), 255, dtype=np.uint8)
    text[20:580:20, 20:620:9] = 0
    return {
        "one pixel": np.zeros((1, 1, 3), dtype=np.uint8),
        "a line": noise[:1].copy(),
        "a column": rng.integers(0, 256, (8000, 1, 3)).astype(np.uint8),
        "tiny": noise[:17, :23].copy(),
        "noise": noise,
        "binary noise": np.where(noise > 127, 255, 0).astype(np.uint8),
        "half clipped": half,
        "checkers": np.repeat(checkers[:, :, None], 3, axis=2).astype(np.uint8),
        "ramp": np.broadcast_to(np.linspace(0, 255, 700).astype(np.uint8)[None, :, None], (600, 700, 3)).copy(),
        "text": text,
        "strip": rng.normal(120, 6, (130, 3000, 3)).clip(0, 255).astype(np.uint8),
    }


def check(seen: Observation, substrate: Substrate) -> None:
    assert np.isfinite(seen.score)
    assert all(np.isfinite(m.value) for m in seen.measurements)
    assert len({m.name for m in seen.measurements}) == len(seen.measurements)
    assert len(seen.regions) <= MAX_REGIONS
    for region in seen.regions:
        assert region.width_px > 0
        assert region.height_px > 0
        assert region.x_px + region.width_px <= substrate.width_px
        assert region.y_px + region.height_px <= substrate.height_px
    if seen.heat_map is not None:
        cell = seen.heat_map.cell_px
        assert seen.heat_map.values.shape == (-(-substrate.height_px // cell), -(-substrate.width_px // cell))
    if seen.outcome is Outcome.NOT_APPLICABLE:
        assert seen.reason
        assert not seen.reason.endswith(".")


@pytest.mark.parametrize("name", oddities())
def test_odd_pictures_are_answered_and_not_detected(name: str, to_substrate: Decoder) -> None:
    substrate = to_substrate(camera.to_png(oddities()[name]))
    for test in TOOL.tests:
        seen = test.run(substrate)
        check(seen, substrate)
        assert not seen.detected, test.id


def test_answers_are_repeatable_and_leave_the_picture_alone(to_substrate: Decoder) -> None:
    substrate = to_substrate(camera.to_jpeg(camera.photo(576, 640, 1), 95))
    rgb, luma = substrate.rgb.copy(), substrate.luma.clone()
    for test in TOOL.tests:
        first, second = test.run(substrate), test.run(substrate)
        check(first, substrate)
        assert first.score == second.score
        assert first.measurements == second.measurements
    np.testing.assert_array_equal(substrate.rgb, rgb)
    assert bool((substrate.luma == luma).all())


def test_ids_and_keys_are_well_formed(to_substrate: Decoder) -> None:
    substrate = to_substrate(camera.to_png(camera.photo(576, 576, 2)))
    assert len({test.id for test in TOOL.tests}) == len(TOOL.tests) == 6
    for test in TOOL.tests:
        assert re.fullmatch(r"noise\.[a-z_]+", test.id)
        key = test.run(substrate).explanation_key
        assert key.startswith((test.id + ".", "not_applicable."))
