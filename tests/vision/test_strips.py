"""What is worked out in strips to spare memory equals what it is over the whole picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.camera import photo
from vision_service.tools.frequency import grid_votes, resampling
from vision_service.tools.spatial import autocorrelation, grain

LUMA = photo(330, 410, seed=3)[:, :, 1].astype(np.float32)


def test_votes_do_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are those of single pixels, so the votes are equal to the last bit."""
    whole = grid_votes.vote_map(torch.from_numpy(LUMA))
    for rows in (8, 64, 120):
        monkeypatch.setattr(grid_votes, "_STRIP_PX", rows)
        for height in (330, 7 + 120, 8 + 120, 15 + 120):
            np.testing.assert_array_equal(
                grid_votes.vote_map(torch.from_numpy(LUMA[:height]))[: height - 7], whole[: height - 7]
            )


def test_grain_does_not_depend_on_the_strips() -> None:
    """The box filters' running sums start elsewhere: 1e-5 of a range of -2..2."""
    np.testing.assert_allclose(grain.whole_grain(LUMA), grain.grain(LUMA)[0], atol=1e-5)
    assert grain.plateau_share(LUMA) == grain.plateaus(LUMA).mean()


def test_cell_correlation_does_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells never cross a strip."""
    a, b = grain.whole_grain(LUMA)[:320, :400], grain.whole_grain(LUMA)[10:, 5:405]
    in_strips = grain.cell_correlation(a, b)
    monkeypatch.setattr(grain, "_STRIP_PX", 4096)
    np.testing.assert_array_equal(in_strips, grain.cell_correlation(a, b))


@pytest.mark.parametrize("shape", [(320, 400), (315, 405), (64, 96)])
def test_autocorrelation_is_that_of_the_whole_float64_spectrum(shape: tuple[int, int]) -> None:
    """Float32 in strips against float64 at once: 1e-5 of the value at lag 0."""
    noise = grain.whole_grain(LUMA)[: shape[0], : shape[1]].astype(np.float64)
    rows, columns = (np.arange(side) % 8 for side in shape)
    cut = noise[: shape[0] // 8 * 8, : shape[1] // 8 * 8].reshape(shape[0] // 8, 8, shape[1] // 8, 8)
    noise -= cut.mean(axis=(0, 2))[rows[:, None], columns]
    power = torch.from_numpy(np.abs(np.fft.rfft2(noise)) ** 2)
    smooth = torch.nn.functional.avg_pool2d(power[None], 5, 1, 2, count_include_pad=False)[0].numpy()
    expected = np.fft.irfft2(power.numpy() / np.maximum(smooth, 1e-6), s=shape)
    found = autocorrelation._autocorrelation(torch.from_numpy(grain.whole_grain(LUMA)[: shape[0], : shape[1]]))
    np.testing.assert_allclose(found, expected[: shape[0] // 2 + 1], atol=1e-5 * float(np.abs(expected).max()))
    beyond = autocorrelation._with_neighbours(found, shape[0])
    around = expected[np.arange(-2, shape[0] // 2 + 3) % shape[0]]
    np.testing.assert_allclose(beyond, around, atol=1e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("side", [541, 1000, 4096, 577])
def test_fast_lengths_are_the_next_without_large_factors(side: int) -> None:
    """Against all products of 2, 3, 5 and 7."""
    products = {2**a * 3**b * 5**c * 7**d for a in range(13) for b in range(8) for c in range(6) for d in range(5)}
    assert autocorrelation._fast_length(side) == max(p for p in products if p <= side)


def test_resampling_spectra_do_not_depend_on_the_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums of other lengths: equal within rounding."""
    tall = torch.from_numpy(photo(900, 330, seed=4)[:, :, 1].astype(np.float32))
    in_strips = resampling.tile_spectra(tall).strength
    monkeypatch.setattr(resampling, "_STRIP_PX", 4096)
    np.testing.assert_allclose(in_strips, resampling.tile_spectra(tall).strength, rtol=1e-3, atol=1e-3)
