"""The vision service as a client meets it: a real process on a UNIX socket."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from google.rpc import error_details_pb2
from PIL import Image

from benchmarks.camera import photo, to_jpeg, to_png
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving.channel import CHUNK_BYTES, MAX_MESSAGE_BYTES
from serving.errors import ExitCode
from tests.processes import ServiceProcess, socket_folder

Request = vision_pb2.AnalyzeStreamRequest
Events = dict[str, list[vision_pb2.AnalyzeStreamResponse]]


@pytest.fixture(name="vision", scope="module")
def _vision() -> Iterator[ServiceProcess]:
    with socket_folder() as folder:
        address = f"unix:{folder}/v.sock"
        with ServiceProcess("vision_service", address, log=folder / "log") as process:
            yield process.wait_serving()
            assert process.terminate() == ExitCode.OK, process.log.read_text()


@pytest.fixture(name="stub", scope="module")
def _stub(vision: ServiceProcess) -> vision_pb2_grpc.VisionServiceStub:
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    return vision_pb2_grpc.VisionServiceStub(grpc.insecure_channel(vision.address, options=options))


@pytest.fixture(name="picture", scope="module")
def _picture() -> bytes:
    return to_jpeg(photo(480, 640, seed=5), 92)


def steps(item_id: str, data: bytes, *, sha256: bytes | None = None, size: int | None = None) -> Iterator[Request]:
    digest = hashlib.sha256(data).digest() if sha256 is None else sha256
    yield Request(
        item_id=item_id,
        begin=image_pb2.BeginItem(size_bytes=len(data) if size is None else size, sha256=digest, file_name=item_id),
    )
    for offset in range(0, len(data), CHUNK_BYTES):
        chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data[offset : offset + CHUNK_BYTES])
        yield Request(item_id=item_id, chunk=chunk)
    yield Request(item_id=item_id, end=image_pb2.EndItem())


def converse(stub: vision_pb2_grpc.VisionServiceStub, requests: list[Request]) -> Events:
    events: Events = {}
    for response in stub.AnalyzeStream(iter(requests), timeout=120):
        events.setdefault(response.item_id, []).append(response)
    return events


def outcome(events: Events, item_id: str) -> str:
    """ "result" or the reason of the item's only terminal event."""
    last = [event for event in events[item_id] if event.WhichOneof("event") in {"result", "error"}]
    assert len(last) == 1
    assert last[0] is events[item_id][-1]
    if last[0].WhichOneof("event") == "result":
        return "result"
    info = error_details_pb2.ErrorInfo()
    assert last[0].error.details[0].Unpack(info)
    assert last[0].error.message
    return str(info.reason)


def test_one_picture_gets_a_result_from_each_of_the_four_tools(
    stub: vision_pb2_grpc.VisionServiceStub, picture: bytes
) -> None:
    result = stub.Analyze(vision_pb2.AnalyzeRequest(image=image_pb2.Image(data=picture)), timeout=60).result
    assert [r.tool for r in result.tool_results] == [1, 2, 3, 4]
    assert {r.outcome for r in result.tool_results} <= {finding_pb2.OUTCOME_TESTED, finding_pb2.OUTCOME_NOT_APPLICABLE}
    assert (result.image.format, result.image.width_px, result.image.height_px) == ("JPEG", 640, 480)
    assert result.image.jpeg_quality == 92
    assert result.image.sha256 == hashlib.sha256(picture).digest()
    phases = {timing.phase for timing in result.timings}
    assert {"queue", "decode", "substrate", "frequency", "noise", "watermark", "spatial", "total"} <= phases
    for tool_result in result.tool_results:
        for finding in tool_result.findings:
            assert finding.outcome != finding_pb2.OUTCOME_FAILED, finding.reason
            assert finding.explanation_key
            assert bool(finding.reason) == (finding.outcome == finding_pb2.OUTCOME_NOT_APPLICABLE)
            assert abs(finding.manipulated.log10_lr) <= finding.manipulated.cap
            if finding.HasField("heat_map"):
                size = Image.open(io.BytesIO(finding.heat_map.png)).size
                assert size == (-(-640 // finding.heat_map.cell_px), -(-480 // finding.heat_map.cell_px))


def test_only_the_tools_asked_for_run(stub: vision_pb2_grpc.VisionServiceStub, picture: bytes) -> None:
    image = image_pb2.Image(data=picture)
    request = vision_pb2.AnalyzeRequest(image=image, tools=[finding_pb2.TOOL_WATERMARK])
    assert [r.tool for r in stub.Analyze(request, timeout=60).result.tool_results] == [finding_pb2.TOOL_WATERMARK]


def test_an_unknown_tool_is_refused(stub: vision_pb2_grpc.VisionServiceStub, picture: bytes) -> None:
    request = vision_pb2.AnalyzeRequest(image=image_pb2.Image(data=picture))
    request.tools.append(99)  # type: ignore[arg-type]
    with pytest.raises(grpc.RpcError) as caught:
        stub.Analyze(request, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_findings_come_as_each_tool_ends(stub: vision_pb2_grpc.VisionServiceStub, picture: bytes) -> None:
    events = converse(stub, [*steps("a", picture)])["a"]
    assert [event.WhichOneof("event") for event in events] == ["accepted", *["tool_result"] * 4, "result"]
    streamed = {event.tool_result.tool: event.tool_result for event in events[1:-1]}
    assert streamed == {r.tool: r for r in events[-1].result.tool_results}


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces a size and holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_bad_items_get_their_own_errors_and_neighbours_their_results(
    stub: vision_pb2_grpc.VisionServiceStub, picture: bytes
) -> None:
    webp = saved(Image.fromarray(photo(128, 128, seed=1)), "WEBP")
    png = to_png(photo(128, 128, seed=2))
    bad: dict[str, tuple[list[Request], str]] = {
        "text.jpg": ([*steps("text.jpg", b"Dear reader, this is no picture.")], "NOT_AN_IMAGE"),
        "cut.jpg": ([*steps("cut.jpg", picture[: len(picture) // 2])], "CORRUPT_IMAGE"),
        "cut.png": ([*steps("cut.png", png[: len(png) // 2])], "CORRUPT_IMAGE"),
        "cut.webp": ([*steps("cut.webp", webp[: len(webp) // 2])], "CORRUPT_IMAGE"),
        "bomb.png": ([*steps("bomb.png", png_header(50_000, 50_000))], "TOO_MANY_PIXELS"),
        "empty": ([*steps("empty", b"")], "EMPTY_FILE"),
        "digest": ([*steps("digest", picture, sha256=b"\1" * 32)], "SHA256_MISMATCH"),
        "huge": ([*steps("huge", b"x", size=200_000_000)], "IMAGE_TOO_LARGE"),
    }
    requests = [*steps("first", picture)]
    for messages, _ in bad.values():
        requests += messages
    events = converse(stub, [*requests, *steps("last", picture)])
    assert {name: outcome(events, name) for name in bad} == {name: reason for name, (_, reason) in bad.items()}
    assert (outcome(events, "first"), outcome(events, "last")) == ("result", "result")


def odd_pictures() -> dict[str, bytes]:
    rgb = Image.fromarray(photo(96, 128, seed=3))
    deep = Image.fromarray((np.random.default_rng(0).random((64, 64)) * 65535).astype(np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "deep.png": saved(deep, "PNG"),
        "palette.png": saved(rgb.convert("P"), "PNG"),
        "alpha.png": saved(rgb.convert("RGBA"), "PNG"),
        "animated.gif": saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        "rotated.jpg": saved(rgb, "JPEG", exif=exif),
        "grey.jpg": saved(rgb.convert("L"), "JPEG"),
        "bilevel.png": saved(rgb.convert("1"), "PNG"),
        "one.png": saved(Image.new("RGB", (1, 1)), "PNG"),
        "one.jpg": saved(Image.new("RGB", (1, 1)), "JPEG"),
        "line.png": saved(Image.new("RGB", (8000, 1), "red"), "PNG"),
        "column.png": saved(Image.new("RGB", (1, 8000), "red"), "PNG"),
        "black.png": saved(Image.new("RGB", (300, 300)), "PNG"),
        "white.jpg": saved(Image.new("RGB", (300, 300), "white"), "JPEG"),
        "noise.png": to_png(np.random.default_rng(1).integers(0, 256, (300, 300, 3), dtype=np.uint8)),
    }


def test_odd_pictures_are_analysed_without_a_failed_test_and_without_an_accusation(
    stub: vision_pb2_grpc.VisionServiceStub,
) -> None:
    pictures = odd_pictures()
    events = converse(stub, [request for name, data in pictures.items() for request in steps(name, data)])
    for name in pictures:
        assert outcome(events, name) == "result", name
        for tool_result in events[name][-1].result.tool_results:
            for finding in tool_result.findings:
                assert finding.outcome != finding_pb2.OUTCOME_FAILED, (name, finding.id, finding.reason)
                assert np.isfinite(finding.score)
                assert not finding.detected, (name, finding.id)
            assert tool_result.verdict in {finding_pb2.VERDICT_UNCERTAIN, finding_pb2.VERDICT_AUTHENTIC}, name


def test_a_rotated_picture_is_measured_as_stored(stub: vision_pb2_grpc.VisionServiceStub) -> None:
    image = image_pb2.Image(data=odd_pictures()["rotated.jpg"])
    info = stub.Analyze(vision_pb2.AnalyzeRequest(image=image), timeout=60).result.image
    assert (info.width_px, info.height_px, info.orientation) == (128, 96, 6)


def test_a_large_upload_keeps_memory_bounded(
    vision: ServiceProcess, stub: vision_pb2_grpc.VisionServiceStub, picture: bytes
) -> None:
    process = psutil.Process(vision.process.pid)
    before = process.memory_info().rss
    padded = picture + b"\0" * (100 * 1024 * 1024 - len(picture))  # trailing bytes after the image's end
    assert outcome(converse(stub, [*steps("big", padded)]), "big") == "result"
    assert process.memory_info().rss - before < 450 * 1024 * 1024


def test_list_tools_names_what_results_contain(stub: vision_pb2_grpc.VisionServiceStub, picture: bytes) -> None:
    listed = stub.ListTools(vision_pb2.ListToolsRequest())
    result = stub.Analyze(vision_pb2.AnalyzeRequest(image=image_pb2.Image(data=picture)), timeout=60).result
    assert {t.tool: [test.id for test in t.tests] for t in listed.tools} == {
        r.tool: [finding.id for finding in r.findings] for r in result.tool_results
    }
    assert {t.version for t in listed.tools} == {r.version for r in result.tool_results}
    assert listed.limits.max_pixels_count > 0
    assert listed.device == "cpu"
    assert "sha256:" in listed.calibration_id
    for tool in listed.tools:
        for test in tool.tests:
            assert test.description
            assert test.source


def test_the_same_picture_gives_the_same_findings(stub: vision_pb2_grpc.VisionServiceStub, picture: bytes) -> None:
    def findings() -> list[tuple[str, float, bytes]]:
        image = image_pb2.Image(data=picture)
        result = stub.Analyze(vision_pb2.AnalyzeRequest(image=image), timeout=60).result
        return [(f.id, f.score, f.heat_map.png) for r in result.tool_results for f in r.findings]

    assert findings() == findings()


@pytest.mark.parametrize("setting", ["device=cuda:9", "calibration_file=/nonexistent.json", "workers=0"])
def test_a_wrong_setting_ends_the_start_with_its_name(setting: str, tmp_path: Path) -> None:
    with socket_folder() as folder:
        address = f"unix:{folder}/v.sock"
        with ServiceProcess("vision_service", address, "--set", setting, log=folder / "log") as process:
            assert process.process.wait(60) == ExitCode.USAGE
            assert setting.partition("=")[0] in (folder / "log").read_text()
