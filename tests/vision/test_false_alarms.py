"""The promise of every a-contrario test on untouched synthetic pictures: NFA < 1e-2 on about one in a hundred at most.

A count is refused when a rate of exactly 1 % would give as many with a probability below 1e-3 (one-sided, exact
binomial). `python -m benchmarks.false_alarms` takes 1,000 pictures a test.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.camera import photo
from benchmarks.false_alarms import BATCHES, LARGE, SMALL, Answer, Count, answers, count
from vision_service.tools.watermark import rivagan
from vision_service.tools.watermark.dwt_marks import match_payload
from vision_service.tools.watermark.payloads import from_bits

PICTURES = 80


@pytest.fixture(scope="module")
def given() -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = {}
    for batch in BATCHES.values():
        for answer in answers(batch, range(PICTURES)):
            found.setdefault(answer.test_id, []).append(answer)
    return found


@pytest.mark.parametrize("test_id", [null.test.id for batch in (SMALL, LARGE) for null in batch.nulls])
def test_untouched_pictures_raise_no_more_alarms_than_promised(test_id: str, given: dict[str, list[Answer]]) -> None:
    found = count(given[test_id])
    assert found.ran >= PICTURES / 3
    assert found.kept, [answer for answer in given[test_id] if answer.alarm]


def test_the_bound_refuses_what_one_in_a_hundred_cannot_give() -> None:
    assert Count(1000, 21).kept
    assert not Count(1000, 22).kept
    assert Count(100, 0).upper_bound == pytest.approx(1 - 0.05 ** (1 / 100))


def test_rivagan_keeps_the_promise_for_random_payloads() -> None:
    try:
        decoder = rivagan.load_decoder(torch.device("cpu"))
    except rivagan.DecoderMissingError as error:
        pytest.skip(str(error))
    rng, alarms = np.random.default_rng(7), 0
    for seed in range(10):
        bits = rivagan.soft_bits(photo(128, 192, seed), decoder, torch.device("cpu"))
        for _ in range(100):
            payload = from_bits("", "".join(map(str, rng.integers(0, 2, rivagan.BITS))))
            alarms += match_payload(bits[None], payload, period=1).log10_p < -2
    assert Count(1000, int(alarms)).kept
