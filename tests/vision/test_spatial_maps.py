"""Edge spread and blocking strength: right measurements, maps that show the odd region, never a detection."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from benchmarks import camera
from vision_service.domain import Outcome
from vision_service.substrate import Substrate
from vision_service.tools.spatial import TOOL, blocking, blur

Decode = Callable[[bytes], Substrate]


def blurred_steps(spread: float) -> torch.Tensor:
    """Vertical edges, each a step blurred by a Gaussian of the given deviation."""
    steps = np.zeros((160, 160), np.float32)
    for left in range(20, 160, 40):
        steps[:, left : left + 20] = 200
    return torch.from_numpy(np.asarray(cv2.GaussianBlur(steps, (0, 0), spread), np.float32))


def to_bytes(image: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(np.clip(image, 0, 255)).astype(np.uint8)


@pytest.mark.parametrize("spread", [0.8, 1.2, 2.0])
def test_edge_spread_is_recovered_from_blurred_steps(spread: float) -> None:
    sharp, soft = blur.edge_energies(blurred_steps(spread))
    ratio = float(sharp.sum() / soft.sum())
    assert 1 / np.sqrt(ratio**2 - 1) == pytest.approx(spread, rel=0.2)


def test_edge_energies_do_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    luma = torch.from_numpy(camera.photo(200, 160, 3).mean(axis=2).astype(np.float32))
    whole = blur.edge_energies(luma)
    monkeypatch.setattr(blur, "STRIP_PX", 16)
    for a, b in zip(whole, blur.edge_energies(luma), strict=True):
        torch.testing.assert_close(a, b)


def test_a_blurred_region_stands_out_in_the_map(to_substrate: Decode) -> None:
    rgb = camera.photo(320, 320, 8)
    rgb[120:216, 120:216] = cv2.GaussianBlur(rgb, (0, 0), 2.5)[120:216, 120:216]
    seen = blur.run(to_substrate(camera.to_png(rgb)))
    assert not seen.detected
    assert seen.heat_map is not None
    assert not seen.heat_map.significant
    inside = seen.heat_map.values[15:27, 15:27]
    assert inside.mean() > 2 * seen.heat_map.values.mean()


def test_the_grid_of_a_jpeg_is_measured(to_substrate: Decode) -> None:
    luma = to_substrate(camera.to_jpeg(camera.photo(320, 320, 9), 60)).luma
    grid = blocking.main_grid(blocking.step_excess(luma[:, 3:]))
    assert grid.phase == 5
    assert grid.z > blocking.MIN_Z


def test_step_excess_agrees_with_its_definition() -> None:
    luma = torch.randint(0, 256, (17, 40), generator=torch.Generator().manual_seed(1)).float()
    step = np.minimum(np.abs(np.diff(luma.numpy(), axis=1)), blocking.CLIP)  # step[:, x - 1] leads from x - 1 to x
    expected = np.zeros((2, 40))
    for x in range(2, 39):
        excess = step[:, x - 1] - (step[:, x - 2] + step[:, x]) / 2
        expected[:, x] = [excess[:8].sum(), excess[8:16].sum()]
    np.testing.assert_allclose(blocking.step_excess(luma).numpy(), expected, atol=1e-3)


def test_an_insertion_after_compression_lacks_blocking(to_substrate: Decode) -> None:
    original = camera.photo(400, 400, 10)
    forged = camera.from_file(camera.to_jpeg(original, 50)).copy()
    forged[120:280, 120:280] = original[120:280, 120:280]
    seen = blocking.run(to_substrate(camera.to_png(forged)))
    clean = blocking.run(to_substrate(camera.to_jpeg(original, 50)))
    assert not seen.detected
    assert seen.heat_map is not None
    assert seen.heat_map.values[18:32, 18:32].mean() > 2 * seen.heat_map.values.mean()
    assert seen.score > clean.score


def test_a_picture_without_a_grid_is_not_judged(to_substrate: Decode) -> None:
    seen = blocking.run(to_substrate(camera.to_png(camera.photo(320, 320, 11))))
    assert seen.explanation_key == "not_applicable.no_jpeg_grid"


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (170, 170), (97, 400)])
@pytest.mark.parametrize("kind", ["black", "white", "noise"])
def test_odd_pictures_are_survived_without_detection(shape: tuple[int, int], kind: str, to_substrate: Decode) -> None:
    noise = np.random.default_rng(2).uniform(0, 255, shape)
    grey = {"black": np.zeros(shape), "white": np.full(shape, 255.0), "noise": noise}[kind].astype(np.float32)
    substrate = to_substrate(camera.to_png(np.repeat(to_bytes(grey)[:, :, None], 3, 2)))
    for test in TOOL.tests:
        seen = test.run(substrate)
        assert not seen.detected
        assert np.isfinite(seen.score)
        if seen.outcome is Outcome.TESTED and seen.heat_map is not None:
            cell_px = seen.heat_map.cell_px
            assert seen.heat_map.values.shape == (-(-shape[0] // cell_px), -(-shape[1] // cell_px))
