"""Odd, lying and broken pictures through all tools: a right "not applicable" or a right answer, never NaN, no crash."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.camera import photo, to_jpeg, to_png
from tests.vision.test_watermark_credentials import Authority, created
from vision_service.calibration import Calibration
from vision_service.domain import Outcome, ToolResult
from vision_service.runner import run_tool
from vision_service.substrate import Substrate
from vision_service.tools import TOOLS

Decoder = Callable[[bytes], Substrate]
SIDE = 288


def saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def flat(level: int) -> bytes:
    return to_png(np.full((SIDE, SIDE, 3), level, dtype=np.uint8))


def noise_only() -> bytes:
    return to_png(np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8))


def grey() -> bytes:
    return saved(Image.fromarray(photo(SIDE, SIDE, 1)[:, :, 1]), "JPEG", quality=90)


def sixteen_bit() -> bytes:
    return saved(Image.fromarray(photo(SIDE, SIDE, 2)[:, :, 1].astype(np.uint16) * 257), "PNG")


def transparent() -> bytes:
    rgb = photo(SIDE, SIDE, 3)
    return saved(Image.fromarray(np.dstack([rgb, rgb[:, :, 0]])), "PNG")


def printed() -> bytes:
    return saved(Image.fromarray(photo(SIDE, SIDE, 4)).convert("CMYK"), "JPEG", quality=88)


def screenshot() -> bytes:
    image = Image.new("RGB", (480, 320), (246, 246, 246))
    pen = ImageDraw.Draw(image)
    for row in range(12):
        pen.rectangle((16, 12 + 25 * row, 464, 32 + 25 * row), fill=(255, 255, 255), outline=(200, 200, 205))
        pen.text((24, 16 + 25 * row), f"{row:02d}  Open the settings and save the file again", fill=(30, 30, 34))
    return saved(image, "PNG")


def scanned() -> bytes:
    """A page of text with paper grain and a slight tilt, saved as scanners do."""
    page = Image.new("L", (420, 560), 238)
    pen = ImageDraw.Draw(page)
    for row in range(20):
        pen.text((30, 25 + 25 * row), "It was the best of times, it was the worst of times,", fill=40)
    tilted = np.asarray(page.rotate(0.7, Image.Resampling.BICUBIC, fillcolor=238), dtype=np.float64)
    grain = np.random.default_rng(2).normal(0, 2.5, tilted.shape)
    return saved(Image.fromarray(np.clip(tilted + grain, 0, 255).astype(np.uint8)), "JPEG", quality=80)


def animated() -> bytes:
    frames = [Image.fromarray(photo(SIDE, SIDE, seed)) for seed in (5, 6)]
    return saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], quality=80)


def lying_exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "NIKON CORPORATION", "NIKON D7000"
    inner = exif.get_ifd(0x8769)
    inner[0xA002], inner[0xA003], inner[0x9003] = 4928, 3264, "2031:13:41 99:99:99"
    return to_jpeg(photo(SIDE, SIDE, 7), 92, exif=exif.tobytes())


def self_signed() -> bytes:
    return Authority().signed(to_jpeg(photo(SIDE, SIDE, 8), 92), [created("digitalCapture")])


def broken_credentials() -> bytes:
    """The manifest store's boxes are overwritten; the picture is whole."""
    data = bytearray(self_signed())
    at = data.find(b"c2pa.claim")
    data[at - 60 : at + 60] = bytes(120)
    return bytes(data)


NONE: frozenset[str] = frozenset()
PICTURES: dict[str, tuple[Callable[[], bytes], frozenset[str]]] = {
    "black": (lambda: flat(0), NONE),
    "grey level": (lambda: flat(128), NONE),
    "white": (lambda: flat(255), NONE),
    "noise only": (noise_only, NONE),
    "one pixel": (lambda: to_png(np.zeros((1, 1, 3), np.uint8)), NONE),
    "tiny JPEG": (lambda: to_jpeg(photo(16, 16, 0), 90), NONE),
    "a line": (lambda: to_png(np.full((1, 8000, 3), 90, np.uint8)), NONE),
    "one channel": (grey, NONE),
    "16 bit": (sixteen_bit, NONE),
    "alpha": (transparent, NONE),
    "CMYK": (printed, NONE),
    "screenshot": (screenshot, NONE),
    "scanned": (scanned, NONE),
    "animated": (animated, NONE),
    "EXIF that lies": (lying_exif, frozenset({"watermark.metadata_consistency.size_differs"})),
    "self-signed camera": (self_signed, frozenset({"watermark.content_credentials.capture_unverified"})),
    "broken credentials": (broken_credentials, frozenset({"not_applicable.unreadable_credentials"})),
}
"""How each is made and the explanation keys that must be among the answers."""


@pytest.fixture(scope="module", params=PICTURES, ids=list(PICTURES))
def answered(request: pytest.FixtureRequest, to_substrate: Decoder) -> tuple[str, Substrate, tuple[ToolResult, ...]]:
    substrate = to_substrate(PICTURES[request.param][0]())
    calibration = Calibration.load()
    return request.param, substrate, tuple(run_tool(tool, substrate, calibration) for tool in TOOLS)


def test_every_test_answers_in_finite_numbers(answered: tuple[str, Substrate, tuple[ToolResult, ...]]) -> None:
    _, substrate, results = answered
    findings = [finding for result in results for finding in result.findings]
    assert len(findings) == sum(len(tool.tests) for tool in TOOLS)
    for finding in findings:
        seen = finding.observation
        assert seen.outcome is not Outcome.FAILED, (finding.id, seen.reason)
        assert seen.reason or seen.outcome is Outcome.TESTED
        numbers = [seen.score, *(m.value for m in seen.measurements), finding.manipulated.log10_lr]
        numbers += [n for n in (seen.log10_nfa, seen.p_value, finding.ai_generated.log10_lr) if n is not None]
        assert all(map(math.isfinite, numbers)), finding.id
        for region in seen.regions:
            assert 0 <= region.x_px < region.x_px + region.width_px <= substrate.width_px
            assert 0 <= region.y_px < region.y_px + region.height_px <= substrate.height_px


def test_nothing_is_accused_and_what_is_known_is_said(answered: tuple[str, Substrate, tuple[ToolResult, ...]]) -> None:
    name, _, results = answered
    findings = [finding for result in results for finding in result.findings]
    assert [finding.id for finding in findings if finding.observation.detected] == []
    assert PICTURES[name][1] <= {finding.observation.explanation_key for finding in findings}


def test_a_self_signed_camera_is_hardly_believed(to_substrate: Decoder) -> None:
    result = run_tool(next(t for t in TOOLS if t.name == "watermark"), to_substrate(self_signed()), Calibration.load())
    credentials = next(f for f in result.findings if f.id == "watermark.content_credentials")
    assert abs(credentials.manipulated.log10_lr) <= 0.5
    assert abs(credentials.ai_generated.log10_lr) <= 0.5
