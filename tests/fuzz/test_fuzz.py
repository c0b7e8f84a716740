"""The fuzzers' targets on their seeds, on damaged copies and on what once broke them; a fixed number of inputs."""

from __future__ import annotations

import random
import zlib

import pytest
import torch

from fuzz.seeds import damaged, malformed, seeds
from fuzz.targets import TARGETS
from serving.errors import MaifsError, Reason
from vision_service.decoding.decoder import Decoder
from vision_service.limits import DecodeLimits

SLOW = {"picture": 60, "c2pa_boxes": 60}
REGRESSIONS: dict[str, tuple[bytes, ...]] = {}
"""Inputs that once broke a target."""


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", TARGETS)
def test_no_input_breaks_a_parser(name: str) -> None:
    generator = random.Random(zlib.crc32(name.encode()))
    target = TARGETS[name]
    for data in (b"", *seeds(name), *REGRESSIONS.get(name, ())):
        target(data)
    for _ in range(SLOW.get(name, 400)):
        target(damaged(generator.choice(seeds(name)), generator))


def test_malformed_files_get_an_answer_or_an_error_of_their_own() -> None:
    limits = DecodeLimits(max_pixels=1 << 20)
    decoder = Decoder(limits, 1)
    reasons = {
        Reason.EMPTY_FILE, Reason.NOT_AN_IMAGE, Reason.CORRUPT_IMAGE, Reason.TOO_MANY_PIXELS, Reason.DECODER_FAILED,
    }  # fmt: skip
    seen: dict[str, Reason | None] = {}
    for name, data in malformed():
        try:
            picture = decoder.open(data)
            width, height = picture.size()
            substrate = picture.decode(torch.device("cpu"))
            assert substrate.rgb.shape == (height, width, 3)
            _ = substrate.jpeg
            seen[name] = None
        except MaifsError as error:
            seen[name] = error.reason
    decoder.close()
    assert {reason for reason in seen.values() if reason} <= reasons
    assert (seen["empty"], seen["bomb of pixels"]) == (Reason.EMPTY_FILE, Reason.TOO_MANY_PIXELS)
    assert seen["no pixels"] is Reason.CORRUPT_IMAGE
