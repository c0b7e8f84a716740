"""Whoever decodes foreign pictures does it in workers: a codec that dies costs one picture, not the process."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from PIL import Image

from coordinator.explanation.picture_reading import make_copy
from coordinator.render import picture
from llm_service import images
from maifs.common.v1 import finding_pb2, image_pb2
from serving.bounded.pool import BoundedPool, Bounds
from serving.errors import MaifsError, Reason

FAULTS = ("segfault", "abort", "leave", "devour", "lie")


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (9, 99, 199)).save(buffer, "PNG")
    return buffer.getvalue()


def info(data: bytes) -> image_pb2.ImageInfo:
    return image_pb2.ImageInfo(size_bytes=len(data), sha256=hashlib.sha256(data).digest())


@pytest.fixture(name="broken")
def _broken(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Has the codecs of both users do something terrible."""
    pools: list[BoundedPool] = []

    def break_with(fault: str) -> None:
        for module, names in ((picture, ("size", "copies", "overlay")), (images, ("rgb",))):
            pool = BoundedPool(dict.fromkeys(names, f"tests.bounded.hostile_tasks:{fault}"), 1)
            pools.append(pool)
            monkeypatch.setattr(module, "_POOL", pool)

    yield break_with
    for pool in pools:
        pool.close()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_codec_that_dies_costs_its_picture_alone(broken: Callable[[str], None], fault: str) -> None:
    broken(fault)
    data = png()
    assert picture.load_preview(data, info(data)) is None
    assert picture.overlay(finding_pb2.HeatMap(png=data, cell_px=8)) is None
    for decode in (lambda: images.decode_image(data, "images[0]"), lambda: make_copy(data)):
        with pytest.raises(MaifsError) as caught:
            decode()
        assert caught.value.reason is Reason.DECODER_FAILED


def test_a_codec_that_hangs_is_given_up(broken: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    broken("hang")
    data = png()
    for module in (picture, images):
        monkeypatch.setattr(module, "MAX_DECODE_S", 0.5)
    assert picture.load_preview(data, info(data)) is None
    with pytest.raises(MaifsError, match=r"longer than 0\.5 s"):
        images.decode_image(data, "images[0]")


def test_no_picture_is_decoded_in_the_process_of_its_user() -> None:
    data = png()
    for pool, call in (
        (picture._POOL, lambda: picture.load_preview(data, info(data))),
        (images._POOL, lambda: images.decode_image(data, "images[0]")),
    ):
        assert call() is not None
        pids = [slot.process.pid for slot in pool._slots.queue if slot.process is not None]
        assert pids
        assert os.getpid() not in pids


def test_a_reader_of_reports_that_shows_no_picture_starts_no_process_and_imports_no_codec() -> None:
    program = (
        "import sys, coordinator.render.html, coordinator.render.picture as p\n"
        "sys.exit(p._POOL._launcher._zygote is not None or 'PIL' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0


def test_what_a_file_asks_for_beyond_its_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "Bounds", lambda time_s, memory_bytes: Bounds(time_s, 1 << 20))
    with pytest.raises(MaifsError) as caught:
        images.decode_image(large_png(), "images[0]")
    assert caught.value.reason is Reason.DECODER_FAILED


def large_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(buffer, "PNG")
    return buffer.getvalue()
