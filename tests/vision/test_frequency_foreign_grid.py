"""ZERO: grid votes against a slow reference, foreign regions found, genuine pictures left alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from benchmarks import camera
from vision_service.substrate import Substrate
from vision_service.tools.binomial import log10_binomial_tail
from vision_service.tools.frequency import foreign_grid
from vision_service.tools.frequency.block_dct import block_dct, count_zeros, dct_matrix
from vision_service.tools.frequency.grid_votes import GRIDS, NO_VOTE, GridVotes, grid_votes, log10_tests, vote_map

ToSubstrate = Callable[[bytes], Substrate]


def _spliced(shift: int, *, final: int = 99) -> bytes:
    """A JPEG 80 region moved by `shift` px within a JPEG 80 picture, saved again."""
    host = camera.from_file(camera.to_jpeg(camera.photo(384, 384, 1), 80)).copy()
    donor = camera.from_file(camera.to_jpeg(camera.photo(384, 384, 2), 80))
    host[96:256, 96:256] = donor[96 + shift : 256 + shift, 96 + shift : 256 + shift]
    return camera.to_jpeg(host, final, subsampling="4:4:4")


def test_block_dct_is_the_orthonormal_transform_of_each_block() -> None:
    luma = camera.photo(40, 48, 3)[:, :, 0].astype(np.float32)
    matrix = dct_matrix()
    assert np.allclose(matrix @ matrix.T, np.eye(8), atol=1e-12)
    got = block_dct(torch.from_numpy(luma), 3, 2)
    assert got.shape == (4, 5, 8, 8)
    assert np.allclose(got[1, 2].numpy(), matrix @ luma[11:19, 18:26] @ matrix.T, atol=1e-3)


def _reference_votes(luma: np.ndarray, zeros: np.ndarray) -> np.ndarray:
    """Algorithm 1 of the paper, block after block."""
    votes = np.full(luma.shape, -1)
    best = np.full(luma.shape, -1)
    for y in range(zeros.shape[0]):
        for x in range(zeros.shape[1]):
            block = luma[y : y + 8, x : x + 8]
            constant = bool((block == block[:, :1]).all() or (block == block[:1]).all())
            vote, most = votes[y : y + 8, x : x + 8], best[y : y + 8, x : x + 8]
            vote[most == zeros[y, x]] = -1
            better = zeros[y, x] > most
            vote[better] = -1 if constant else x % 8 + 8 * (y % 8)
            most[better] = zeros[y, x]
    inner = np.full(luma.shape, NO_VOTE)
    inner[7:-7, 7:-7] = np.where(votes < 0, NO_VOTE, votes)[7:-7, 7:-7]
    return inner


def test_zeros_and_votes_agree_with_a_slow_reference() -> None:
    rgb = camera.from_file(camera.to_jpeg(camera.photo(64, 72, 5), 85)).copy()
    rgb[8:24, 40:64] = 255  # constant blocks must not vote
    luma = torch.from_numpy(rgb[:, :, 1].astype(np.float32))
    matrix = dct_matrix()
    blocks = np.lib.stride_tricks.sliding_window_view(luma.numpy(), (8, 8))
    size = np.abs(matrix @ blocks @ matrix.T)
    surely, perhaps = ((size < bound).reshape(*size.shape[:2], 64)[:, :, 1:].sum(2) for bound in (0.4999, 0.5001))
    zeros = count_zeros(luma).numpy()
    assert ((surely <= zeros) & (zeros <= perhaps)).all()
    assert np.array_equal(vote_map(luma), _reference_votes(luma.numpy(), zeros))


@pytest.mark.parametrize(("top", "left"), [(0, 0), (3, 5)])
def test_main_grid_is_where_the_picture_was_cropped(to_substrate: ToSubstrate, top: int, left: int) -> None:
    rgb = camera.from_file(camera.to_jpeg(camera.photo(256, 256, 7), 80))
    votes = grid_votes(to_substrate(camera.to_png(np.ascontiguousarray(rgb[top:, left:]))))
    assert votes is not None
    assert votes.main == (-left) % 8 + 8 * ((-top) % 8)


def test_region_from_another_jpeg_grid_is_found_where_it_is(to_substrate: ToSubstrate) -> None:
    seen = foreign_grid.run(to_substrate(_spliced(3)))
    assert seen.detected
    assert seen.explanation_key == "frequency.foreign_grid.detected"
    assert seen.log10_nfa is not None
    assert seen.log10_nfa < -3
    box = seen.regions[0]
    assert 80 <= box.x_px <= 128
    assert 80 <= box.y_px <= 128
    assert seen.heat_map is not None
    lit = seen.heat_map.values > 0
    truth = np.zeros((48, 48), dtype=bool)
    truth[12:32, 12:32] = True
    assert (lit & ~truth).sum() < 0.1 * lit.sum()
    assert (lit & truth).sum() > 0.3 * truth.sum()


def test_region_on_the_same_grid_is_not_found(to_substrate: ToSubstrate) -> None:
    assert not foreign_grid.run(to_substrate(_spliced(8))).detected


def test_cropped_and_recompressed_picture_has_a_history_but_no_edit(to_substrate: ToSubstrate) -> None:
    first = camera.from_file(camera.to_jpeg(camera.photo(392, 392, 9), 75))
    data = camera.to_jpeg(np.ascontiguousarray(first[3:, 5:]), 99, subsampling="4:4:4")
    seen = foreign_grid.run(to_substrate(data))
    assert not seen.detected
    assert seen.explanation_key in {"frequency.foreign_grid.second_grid", "frequency.foreign_grid.not_detected"}
    numbers = {m.name: m.value for m in seen.measurements}
    assert (numbers["picture_grid_x"], numbers["picture_grid_y"]) == (3.0, 5.0)


@pytest.mark.parametrize("quality", [0, 75, 95])
def test_genuine_pictures_raise_no_alarm(to_substrate: ToSubstrate, quality: int) -> None:
    for seed in range(20):
        rgb = camera.photo(160, 160, 100 + seed)
        data = camera.to_jpeg(rgb, quality) if quality else camera.to_png(rgb)
        assert not foreign_grid.run(to_substrate(data)).detected


def test_random_votes_keep_the_promised_number_of_false_alarms(rng_votes: Callable[[int], np.ndarray]) -> None:
    alarms = 0
    for seed in range(300):
        votes = rng_votes(seed)
        counts = np.bincount(votes.ravel(), minlength=256)[:GRIDS]
        nfa = log10_tests(*votes.shape) + log10_binomial_tail(counts // GRIDS, votes.size // GRIDS, 1 / GRIDS)
        alarms += bool(foreign_grid.find_regions(GridVotes(votes, counts, nfa), 0)) or bool(nfa.min() < 0)
    assert alarms == 0


@pytest.fixture
def rng_votes() -> Callable[[int], np.ndarray]:
    """Votes under H0: 8 x 8 patches agree with themselves, no two patches with each other."""

    def make(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        patches = rng.integers(0, GRIDS, (24, 24)).astype(np.uint8)
        return np.repeat(np.repeat(patches, 8, 0), 8, 1)

    return make


@pytest.mark.parametrize("shape", [(1, 1), (8, 300), (15, 15), (16, 16), (40, 3000)])
@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_and_tiny_pictures_are_answered(to_substrate: ToSubstrate, shape: tuple[int, int], level: int) -> None:
    seen = foreign_grid.run(to_substrate(camera.to_png(np.full((*shape, 3), level, np.uint8))))
    assert not seen.detected
    assert np.isfinite(seen.score)
    assert (seen.explanation_key == "not_applicable.too_small") == (min(shape) < 16)
