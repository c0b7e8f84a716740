"""The decoders of known payloads: bits as in the published scheme, the right null, marks found, photos left alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import pywt
import torch
from PIL import Image

from benchmarks.camera import ByteArray, photo, to_jpeg, to_png
from benchmarks.watermarks import embed
from vision_service.domain import Outcome, Test
from vision_service.substrate import Substrate
from vision_service.tools.watermark.dwt_marks import (
    TESTS,
    detail,
    largest_coefficient,
    largest_singular_value,
    level_readings,
    low_band_blocks,
    match_payload,
    phase_readings,
    soft_bits,
)
from vision_service.tools.watermark.payloads import PAYLOADS, Payload, from_bits, from_bytes

Decoder = Callable[[bytes], Substrate]
CPU = torch.device("cpu")
PICTURES = [photo(320, 448, seed) for seed in range(4)]


def muted(rgb: ByteArray) -> ByteArray:
    """Half the saturation: the scenes' colours are drawn at random, those of photographs are seldom as strong."""
    grey = rgb.mean(axis=2, keepdims=True)
    return np.asarray(np.rint((rgb + grey) / 2), dtype=np.uint8)


def slow_bits(rgb: ByteArray, scheme: str) -> list[int]:
    """Hard bits by the published procedure, block by block."""
    u = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)[: rgb.shape[0] // 4 * 4, : rgb.shape[1] // 4 * 4, 1]
    low, _ = pywt.dwt2(u.astype(np.float64), "haar")
    bits = []
    for row in range(low.shape[0] // 4):
        for column in range(low.shape[1] // 4):
            block = low[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            if scheme == "dwt_dct":
                value = np.abs(block.flatten()[1:]).max()
            else:
                value = np.linalg.svd(cv2.dct(block), compute_uv=False)[0]
            bits.append(int(value % 36 > 18))
    return bits


@pytest.mark.parametrize(
    ("scheme", "carrier"), [("dwt_dct", largest_coefficient), ("dwt_dct_svd", largest_singular_value)]
)
def test_the_bits_are_those_of_the_published_scheme(
    scheme: str, carrier: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    for rgb in (PICTURES[0][:123, :250], embed(PICTURES[1], PAYLOADS[1], scheme)):
        soft = soft_bits(carrier(low_band_blocks(rgb, CPU))).ravel()
        sure = np.abs(soft) > 1e-3
        np.testing.assert_array_equal((soft > 0)[sure], np.array(slow_bits(rgb, scheme))[sure] > 0)
        assert sure.mean() > 0.5


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.id)
@pytest.mark.parametrize("payload", PAYLOADS, ids=lambda payload: payload.generator)
def test_a_lossless_mark_is_always_found_and_named(test: Test, payload: Payload, to_substrate: Decoder) -> None:
    for rgb in PICTURES[:2]:
        observation = test.run(to_substrate(to_png(embed(rgb, payload, test.id.removeprefix("watermark.")))))
        assert observation.detected
        assert observation.details["payload_of"] == payload.generator
        assert observation.explanation_key == f"{test.id}.detected"


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.id)
def test_marks_survive_jpeg_95_nine_times_out_of_ten(test: Test, to_substrate: Decoder) -> None:
    found = [
        test.run(to_substrate(to_jpeg(embed(rgb, payload, test.id.removeprefix("watermark.")), 95))).detected
        for rgb in [muted(photo(768, 768, seed)) for seed in range(20, 24)]
        for payload in PAYLOADS[:3]
    ]
    assert np.mean(found) >= 0.9


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.id)
def test_pictures_without_a_mark_are_left_alone(test: Test, to_substrate: Decoder) -> None:
    rng = np.random.default_rng(3)
    flat = np.full((300, 400, 3), 117, dtype=np.uint8)
    ramp = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], 300, axis=0).repeat(3, axis=2)
    stripes = np.zeros((512, 512, 3), dtype=np.uint8)
    stripes[:, ::16, 2] = 255  # a period of 2 blocks, which divides those of all payloads
    noise = rng.integers(0, 256, (300, 400, 3), dtype=np.uint8)
    black, white = np.zeros_like(flat), np.full_like(flat, 255)
    for rgb in [*PICTURES, flat, ramp, stripes, noise, black, white]:
        observation = test.run(to_substrate(to_png(rgb)))
        assert observation.outcome is Outcome.TESTED
        assert not observation.detected
        assert np.isfinite(observation.score)


def test_p_values_are_uniform_for_payloads_that_are_not_there() -> None:
    rng = np.random.default_rng(11)
    words = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", dtype=np.uint8)
    log10_p = []
    for rgb in PICTURES:
        blocks = low_band_blocks(rgb, CPU)
        for bits in [*level_readings(blocks), *phase_readings(blocks)]:
            log10_p += [match_payload(bits, from_bytes("", bytes(rng.choice(words, 4)))).log10_p for _ in range(100)]
            random = ("".join(map(str, rng.integers(0, 2, 48))) for _ in range(100))
            log10_p += [match_payload(bits, from_bits("", message)).log10_p for message in random]
    share = {level: float((np.array(log10_p) < np.log10(level)).mean()) for level in (0.1, 0.01, 0.001)}
    assert 0.06 < share[0.1] < 0.14
    assert share[0.01] < 0.02
    assert share[0.001] < 0.003


def test_constant_bits_of_flat_areas_are_no_evidence() -> None:
    bits = np.ones((40, 50))
    bits[:, :25] = -1.0
    assert match_payload(detail(bits, 5), PAYLOADS[1]).log10_p > -2


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.id)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (255, 256), (8000, 1), (1, 8000), (70_000 // 8, 7)])
def test_pictures_that_are_too_small_for_the_scheme_are_not_judged(
    test: Test, to_substrate: Decoder, width: int, height: int
) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (3, 4, 5)).save(buffer, "PNG")
    assert test.run(to_substrate(buffer.getvalue())).explanation_key == "not_applicable.too_small"


def test_the_flux_payload_has_lost_its_leading_zeros() -> None:
    constant = 0b001010101111111010000111100111001111010100101110
    flux = next(payload for payload in PAYLOADS if payload.generator == "FLUX")
    assert "".join(map(str, flux.bits)) == bin(constant)[2:]
    assert len(flux.bits) == 46
