"""coordinator.client against a simulated coordinator on a UNIX socket."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coordinator.client import (
    AsyncClient,
    Client,
    MaifsError,
    Options,
    Outcome,
    Reason,
    Reported,
    ToolEnded,
    Verdict,
    VerdictKnown,
)
from coordinator.client.pictures import encode_png
from serving.errors import ExitCode
from tests.coordinator.cli_server import MAX_IMAGE_BYTES, MAX_OPEN_ITEMS, ServerThread
from tests.coordinator.pictures import png

RNG = np.random.default_rng(3)


@pytest.fixture
def server() -> Iterator[ServerThread]:
    folder = tempfile.mkdtemp(prefix="maifs-", dir="/tmp")
    thread = ServerThread(f"unix:{folder}/c.sock")
    yield thread
    thread.close()
    shutil.rmtree(folder)


@pytest.fixture
def client(server: ServerThread) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "photo.png"
    file.write_bytes(png())
    return file


def test_three_lines_give_a_report_on_a_path(client: Client, server: ServerThread, path: Path) -> None:
    report = client.analyze(str(path))
    assert report.verdict is Verdict.MANIPULATED
    assert f"{report.verdict}" == "manipulated"
    assert report.probability == pytest.approx(0.93)
    assert report.summary == "A region comes from another file."
    assert [finding["id"] for finding in report.detections] == ["frequency.foreign_grid"]
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert server.coordinator.received == {"photo.png": path.read_bytes()}


def test_bytes_travel_as_they_are(client: Client, server: ServerThread) -> None:
    data = RNG.bytes(2_500_000)
    report = client.analyze(data, name="upload.jpg")
    assert server.coordinator.received["upload.jpg"] == data
    assert report.name == "upload.jpg"


@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_array_becomes_a_png_with_every_value_kept(shape: tuple[int, ...], dtype: Any) -> None:
    import cv2

    pixels = RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)
    encoded = encode_png(pixels)
    assert encoded.startswith(b"\x89PNG")
    decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_UNCHANGED)
    assert decoded is not None
    if len(shape) == 3 and shape[2] > 1:
        decoded = decoded[:, :, [2, 1, 0, 3][: shape[2]]]
    assert decoded.dtype == dtype
    assert np.array_equal(decoded, pixels.squeeze())


def test_an_array_in_rgb_order_stays_in_rgb_order(client: Client, server: ServerThread) -> None:
    pixels = np.zeros((8, 9, 3), dtype=np.uint8)
    pixels[..., 0] = 200
    client.analyze(pixels, name="red")
    assert Image.open(io.BytesIO(server.coordinator.received["red"])).getpixel((0, 0)) == (200, 0, 0)


@pytest.mark.parametrize("pixels", [np.zeros((4, 4)), np.zeros((3, 8, 8), np.uint8), np.zeros((0, 4), np.uint8)])
def test_an_array_that_is_no_picture_is_refused_with_advice(client: Client, pixels: Any) -> None:
    with pytest.raises(MaifsError, match="no picture") as caught:
        client.analyze(pixels)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert "uint8" in caught.value.advice


def test_a_decoded_picture_is_refused_because_the_evidence_is_in_the_file(client: Client) -> None:
    with pytest.raises(TypeError, match="evidence is in the file"):
        client.analyze(object())  # type: ignore[arg-type]


def test_an_item_error_is_an_exception_with_reason_advice_and_exit_code(client: Client) -> None:
    with pytest.raises(MaifsError, match="not an image") as caught:
        client.analyze(png(), name="fail.png")
    assert caught.value.reason is Reason.NOT_AN_IMAGE
    assert caught.value.reason.exit_code is ExitCode.ITEMS_FAILED
    assert caught.value.advice == "Send an image."


def test_a_file_that_is_not_there_and_one_too_large_are_errors_of_their_own(client: Client, tmp_path: Path) -> None:
    for given, reason in (
        (tmp_path / "none.jpg", Reason.FILE_UNREADABLE),
        (bytes(MAX_IMAGE_BYTES + 1), Reason.IMAGE_TOO_LARGE),
    ):
        with pytest.raises(MaifsError) as caught:
            client.analyze(given)
        assert caught.value.reason is reason


def test_no_coordinator_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(MaifsError) as caught, Client(f"unix:{tmp_path}/none.sock"):
        pass
    assert caught.value.reason is Reason.BACKEND_UNAVAILABLE
    assert caught.value.reason.exit_code is ExitCode.UNREACHABLE
    assert "Start the services" in caught.value.advice
    assert not [thread for thread in threading.enumerate() if thread.name == "maifs-client"]


def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="`with` block"):
        Client("unix:/nowhere").analyze(b"x")


def test_options_are_handed_on_and_may_differ_by_call(server: ServerThread) -> None:
    with Client(server.address, options=Options(use_llm=False, language="ko")) as client:
        client.analyze(png())
        client.analyze(png(), options=Options(llm_wait_s=3, llm_timeout_s=4, skip_cache=True))
    first, second = server.coordinator.options
    assert (first.skip_llm, first.language, first.llm_wait_seconds) == (True, "ko", 0)
    assert (second.skip_llm, second.llm_wait_seconds, second.llm_timeout_seconds) == (False, 3, 4)
    assert (first.skip_cache, second.skip_cache) == (False, True)


def test_a_batch_gives_every_picture_one_outcome_with_its_name(client: Client, path: Path) -> None:
    outcomes = list(client.batch([path, ("fail.png", png(1)), ("busy.png", png(2)), ("b.png", png(3))]))
    by_name = {outcome.name: outcome for outcome in outcomes}
    assert len(outcomes) == 4
    assert by_name[str(path)].result().verdict is Verdict.MANIPULATED
    assert by_name["busy.png"].report is not None, "a full queue is tried again"
    assert sorted(outcome.index for outcome in outcomes) == [0, 1, 2, 3]
    with pytest.raises(MaifsError, match="not an image"):
        by_name["fail.png"].result()


def test_a_generator_is_read_no_further_than_there_is_room(client: Client, server: ServerThread) -> None:
    drawn: list[int] = []
    thread = threading.current_thread()

    def endless() -> Iterator[tuple[str, bytes]]:
        while True:
            assert threading.current_thread() is thread, "the input is read in the caller's thread"
            drawn.append(len(drawn))
            yield f"{len(drawn)}.png", png(len(drawn))

    batch = client.batch(endless(), concurrency=2)
    for taken, _ in enumerate(batch, start=1):
        assert len(drawn) <= taken + 4, "two under way, one handed over, one waiting"
        if taken == 8:
            break
    batch.close()
    assert server.coordinator.most_open_items <= 2


def test_concurrency_is_lowered_to_what_the_coordinator_allows(client: Client, server: ServerThread) -> None:
    assert len(list(client.batch([(f"{n}.png", png(n)) for n in range(9)], concurrency=99))) == 9
    assert server.coordinator.most_open_items == MAX_OPEN_ITEMS


def test_an_error_of_the_input_ends_the_batch_and_leaves_the_client_usable(client: Client) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield "a.png", png()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(client.batch(broken()))
    with pytest.raises(MaifsError, match="no picture"):
        list(client.batch([np.zeros((2, 2))]))
    assert client.analyze(png()).verdict is Verdict.MANIPULATED


def test_leaving_a_batch_cancels_what_is_under_way(client: Client, server: ServerThread) -> None:
    for outcome in client.batch([("slow.png", png(1)), ("a.png", png())]):
        assert outcome.name == "a.png"
        break
    assert client.analyze(png(), name="after").name == "after"
    assert server.coordinator.open_items == 0


def test_a_lost_coordinator_fails_what_is_under_way_and_then_the_batch(client: Client) -> None:
    def pictures() -> Iterator[tuple[str, bytes]]:
        yield "slow.png", png()
        yield "crash.png", png()
        while True:
            yield "never.png", png()

    outcomes: list[Outcome] = []
    with pytest.raises(MaifsError) as caught:
        outcomes.extend(client.batch(pictures(), concurrency=2))
    assert caught.value.reason is Reason.BACKEND_UNAVAILABLE
    assert {"slow.png", "crash.png"} <= {outcome.name for outcome in outcomes}
    assert all(outcome.error and outcome.error.reason is Reason.BACKEND_UNAVAILABLE for outcome in outcomes)


def test_several_threads_share_a_client(client: Client) -> None:
    verdicts: list[str] = []
    threads = [threading.Thread(target=lambda n=n: verdicts.append(client.analyze(png(n)).verdict)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert verdicts == ["manipulated"] * 4


def test_a_report_as_json_html_and_maps(client: Client, path: Path) -> None:
    report = client.analyze(path)
    document = json.loads(report.to_json())
    assert document["path"] == str(path)
    assert document["tools"] == report.tools
    assert Image.open(io.BytesIO(report.heat_maps["frequency.foreign_grid"])).size == (8, 6)
    assert "data:image/jpeg;base64," in report.to_html()
    assert "조작됨" in report.to_html(lang="ko")
    path.unlink()
    assert "could not be read again" in report.to_html()
    assert "data:image/jpeg;base64," in client.analyze(png(), name="bytes").to_html()
    assert repr(report).startswith("<Report ")


async def test_events_of_one_picture_come_as_they_happen(server: ServerThread) -> None:
    async with AsyncClient(server.address) as client:
        kinds = [type(event) async for event in client.events(png(), name="a.png")]
    assert kinds[-1] is Reported
    assert kinds.count(ToolEnded) == 2
    assert kinds.index(ToolEnded) < kinds.index(VerdictKnown)


async def test_an_async_batch_takes_an_async_generator(server: ServerThread) -> None:
    async def pictures() -> AsyncIterator[tuple[str, bytes]]:
        for number in range(5):
            await asyncio.sleep(0)
            yield f"{number}.png", png(number)

    async with AsyncClient(server.address) as client:
        names = {outcome.name async for outcome in client.batch(pictures())}
        status = await client.status()
    assert names == {f"{number}.png" for number in range(5)}
    assert status.limits.max_items_per_stream_count == MAX_OPEN_ITEMS


async def test_a_slow_input_does_not_hold_up_a_retry(server: ServerThread) -> None:
    gate = asyncio.Event()

    async def pictures() -> AsyncIterator[tuple[str, bytes]]:
        yield "busy.png", png()
        await gate.wait()

    async with AsyncClient(server.address) as client:
        batch = client.batch(pictures(), concurrency=2)
        outcome = await asyncio.wait_for(anext(batch), 20)
        assert outcome.report is not None
        gate.set()
        assert [rest async for rest in batch] == []
