"""noise.synthesis: what it reads, when it is silent, and that its weights are the ones that its card describes."""

from __future__ import annotations

import hashlib
import re

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.camera import photo, to_jpeg
from vision_service.decode import decode
from vision_service.domain import Observation, Outcome
from vision_service.fitting import hypotheses_of
from vision_service.labelled import Item
from vision_service.learned.residual_network import ResidualNetwork
from vision_service.limits import DecodeLimits
from vision_service.observing import observe_all
from vision_service.tools.noise.synthesis import cue


def observe(rgb: np.ndarray) -> Observation:
    return cue.run(decode(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes(), DecodeLimits()))


def test_the_weights_fit_and_are_those_of_the_card() -> None:
    assert cue.WEIGHTS.stat().st_size < 5_000_000
    digest = hashlib.sha256(cue.WEIGHTS.read_bytes()).hexdigest()
    card = cue.WEIGHTS.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    assert re.findall(r"[0-9a-f]{64}", card) == [digest]
    ResidualNetwork().load_state_dict(load_file(cue.WEIGHTS), strict=True)


def test_the_score_is_the_mean_over_the_windows() -> None:
    rgb = photo(256, 256, seed=7)
    network = ResidualNetwork()
    network.load_state_dict(load_file(cue.WEIGHTS))
    network.eval()
    tiles = [rgb[top : top + 128, left : left + 128] for top in (0, 128) for left in (0, 128)]
    batch = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255
    with torch.inference_mode():
        expected = network(batch).mean()
    observation = observe(rgb)
    assert observation.score == pytest.approx(float(expected), abs=1e-4)
    assert observation.measurements[0].value == 4
    assert observe(rgb).score == observation.score


def test_it_never_detects_and_always_says_so() -> None:
    rng = np.random.default_rng(0)
    for rgb in (photo(300, 400, seed=1), rng.integers(0, 256, (300, 400, 3)).astype(np.uint8)):
        observation = observe(rgb)
        assert observation.outcome is Outcome.TESTED
        assert np.isfinite(observation.score)
        assert not observation.detected
        assert observation.explanation_key == "noise.synthesis.not_detected"


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((600, 600, 3), np.uint8),
        np.full((600, 600, 3), 255, np.uint8),
        np.full((400, 400, 3), 90, np.uint8),
        np.full((1, 1, 3), 90, np.uint8),
        np.full((1, 8000, 3), 90, np.uint8),
        photo(200, 200, seed=3),
    ],
    ids=["black", "white", "flat", "one pixel", "one row", "one window"],
)
def test_too_little_texture_is_not_applicable(rgb: np.ndarray) -> None:
    observation = observe(rgb)
    assert observation.outcome is Outcome.NOT_APPLICABLE
    assert observation.explanation_key == "not_applicable.no_texture"


def test_a_doubling_by_a_decoder_scores_above_its_original() -> None:
    """Nearest-neighbour doubling and a convolution, the last step of many decoders, on ten photographs."""
    kernel = np.outer([1, 2, 1], [1, 2, 1]) / 16
    higher = 0
    for seed in range(10):
        original = photo(256, 256, seed=seed)
        small = cv2.resize(original, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        doubled = cv2.filter2D(np.repeat(np.repeat(small, 2, 0), 2, 1), -1, kernel)
        higher += observe(doubled).score > observe(original).score
    assert higher >= 9


def test_pictures_of_the_training_source_do_not_count_in_figures(tmp_path) -> None:  # type: ignore[no-untyped-def]
    items = []
    for source in ("metadata-extractor-images", "elsewhere"):
        path = tmp_path / f"{source}.jpg"
        path.write_bytes(to_jpeg(photo(256, 256, seed=len(source)), 90))
        items.append(Item(path, "authentic", source))
    suites = ("vision_service.tools.noise:TOOL",)
    records = observe_all(items, ["native"], tmp_path / "cache", suites=suites, processes=1)
    outcomes = {r.source: r.observations["noise.synthesis"]["outcome"] for r in records}
    assert outcomes == {"metadata-extractor-images": "not_applicable", "elsewhere": "tested"}
    assert {r.observations["noise.residual_statistics"]["outcome"] for r in records} == {"tested"}


def test_it_is_fitted_for_generated_pictures() -> None:
    assert "ai_generated" in hypotheses_of("noise.synthesis")
