"""Verification of copies: alignments against direct sums, and the work that a picture of equal tiles may cause."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.spatial import alignments, copy_move, verification
from vision_service.tools.spatial.alignments import LAG_PX, rival_alignments

Decode = Callable[[bytes], Substrate]
Seen = list[tuple[bytes, verification.Box]]


def region(shape: tuple[int, int], seed: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Grain of an ellipse, 0 outside of it, and of its likeness: partly the same, repeated 7 px to the right."""
    rng = np.random.default_rng(seed)
    grain, other = rng.normal(size=(2, *shape)).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    first = np.where(np.hypot(x, y) < 0.9, grain, 0).astype(np.float32)
    return first, (grain + 0.5 * np.roll(grain, 7, axis=1) + other).astype(np.float32)


def direct(first: npt.NDArray[np.float32], second: npt.NDArray[np.float32], dy: int, dx: int) -> float:
    """Correlation at one lag, by its definition."""
    padded = np.pad(second, LAG_PX)[LAG_PX + dy :, LAG_PX + dx :][: first.shape[0], : first.shape[1]].astype(np.float64)
    energy = float((padded[first != 0] ** 2).sum()) * float((first.astype(np.float64) ** 2).sum())
    return float((first * padded).sum()) / float(np.sqrt(energy))


def test_alignments_are_those_of_direct_sums() -> None:
    first, second = region((150, 201), 1)
    whole, rival = rival_alignments(first, second)
    assert whole == pytest.approx(direct(first, second, 0, 0), abs=1e-5)
    assert rival == pytest.approx(direct(first, second, 0, 7), abs=1e-5)


@pytest.mark.parametrize("tile_px", [40, 64, 97])
def test_alignments_in_tiles_are_those_of_the_whole(tile_px: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = region((150, 201), 2)
    expected = rival_alignments(first, second)
    monkeypatch.setattr(alignments, "TILE_PX", tile_px)
    assert rival_alignments(first, second) == pytest.approx(expected, abs=1e-6)


@pytest.fixture(scope="module")
def tiled() -> bytes:
    """6 x 6 equal tiles."""
    return camera.to_jpeg(np.tile(camera.photo(100, 104, 5), (6, 6, 1)), 92)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Everything that is compared pixel by pixel."""
    seen: Seen = []
    measure = verification._measure

    def counted(
        luma: verification.FloatArray, transform: verification.Affine, box: verification.Box
    ) -> verification.Copy | None:
        seen.append((transform.tobytes(), box))
        return measure(luma, transform, box)

    monkeypatch.setattr(verification, "_measure", counted)
    return seen


def area(box: verification.Box) -> int:
    return (box[2] - box[0]) * (box[3] - box[1])


def test_equal_tiles_are_compared_no_more_than_the_budget(
    tiled: bytes, measured: Seen, monkeypatch: pytest.MonkeyPatch, to_substrate: Decode
) -> None:
    monkeypatch.setattr(verification, "BASE_BUDGET_PX", 0)
    substrate = to_substrate(tiled)
    seen = copy_move.run(substrate)
    assert seen.detected
    assert 0 < sum(area(box) for _, box in measured) <= verification.SHARE_BUDGET * substrate.luma.numel()
    assert {m.name: m.value for m in seen.measurements}["comparisons_left_out"] > 0


def test_a_small_picture_of_equal_tiles_is_searched_to_the_end_and_nothing_twice(
    tiled: bytes, measured: Seen, to_substrate: Decode
) -> None:
    seen = copy_move.run(to_substrate(tiled))
    assert seen.detected
    assert "comparisons_left_out" not in {m.name for m in seen.measurements}
    assert len(set(measured)) == len(measured)


def test_a_box_beyond_the_limit_is_cut_to_its_middle(
    tiled: bytes, measured: Seen, monkeypatch: pytest.MonkeyPatch, to_substrate: Decode
) -> None:
    for module in (verification, copy_move):
        monkeypatch.setattr(module, "MAX_BOX_PX", 100_000)
    assert copy_move.run(to_substrate(tiled)).detected
    assert measured
    assert max(area(box) for _, box in measured) <= 100_000
