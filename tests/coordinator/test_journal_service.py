"""BatchService over real sockets, with simulated backends."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from coordinator.config import CoordinatorConfig
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc, coordinator_pb2, coordinator_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from serving.server import ServerConfig
from serving.status import from_rpc_error, from_status
from tests.coordinator.batches import (
    RULES_ONLY,
    SEAL,
    Submitter,
    begin,
    chunk,
    digest,
    end,
    ended,
    offer,
    submit,
    until,
    watch,
)
from tests.coordinator.conftest import World
from tests.processes import socket_folder


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    with socket_folder() as folder:
        world = World(folder, config(folder))
        await world.start(llm=False)
        yield world
        await world.close()


def config(folder: Path) -> CoordinatorConfig:
    return CoordinatorConfig(
        server=ServerConfig(f"unix:{folder}/c.sock"),
        vision_address=(f"unix:{folder}/v.sock",),
        llm_address=(),
        state_folder=folder / "state",
        max_image_bytes=1000,
        max_spool_bytes=2000,
        cache_bytes=0,
    )


def stub(world: World) -> Any:
    assert world.channel
    return batch_pb2_grpc.BatchServiceStub(world.channel)


def spooled(world: World) -> list[Path]:
    return sorted((world.folder / "state" / "spool").iterdir())


async def restart(world: World) -> None:
    """Ends the coordinator as a crash would, but for the lock that the kernel gives back, and starts another."""
    assert world.service
    await world.servers.pop("coordinator").stop(0)
    await world.service.stop()
    await world.start(vision=False, llm=False)


async def reported(world: World, batch_id: str, count: int) -> bool:
    answer = await stub(world).GetBatch(batch_pb2.GetBatchRequest(batch_id=batch_id))
    return bool(answer.batch.reported_count >= count)


def refusal(response: batch_pb2.SubmitBatchResponse) -> MaifsError:
    assert response.HasField("refused"), response
    return from_status(response.refused)


async def failing(call: Any) -> MaifsError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value, "the coordinator")


async def test_every_item_ends_once_with_its_report(world: World) -> None:
    pictures = {f"album/{n}.jpg": b"picture %d" % n for n in range(5)}
    assert set((await submit(world.channel, "b", pictures)).values()) == {"accepted"}
    responses = await watch(world.channel, "b")
    ends = ended(responses)
    assert [e.item.sequence for e in ends] == [1, 2, 3, 4, 5]
    assert {e.item.name: e.item.sha256 for e in ends} == {name: digest(data) for name, data in pictures.items()}
    assert {e.report.file_name for e in ends} == {f"{n}.jpg" for n in range(5)}
    assert {e.item.verdict for e in ends} == {e.report.verdict for e in ends} != {finding_pb2.VERDICT_UNSPECIFIED}
    last = responses[-1].batch
    assert (last.state, last.reported_count, last.items_count) == (batch_pb2.BATCH_STATE_DONE, 5, 5)
    assert last.HasField("end_time")
    assert not spooled(world), "the bytes of what has ended are gone"


async def test_submitting_again_sends_no_byte_and_analyses_nothing(world: World) -> None:
    pictures = {"a.jpg": b"one", "b.jpg": b"two"}
    await submit(world.channel, "b", pictures)
    await watch(world.channel, "b")
    assert set((await submit(world.channel, "b", pictures)).values()) == {"known"}
    assert len(ended(await watch(world.channel, "b"))) == 2
    assert len(world.vision.items) == 2


async def test_what_was_added_or_changed_is_analysed_alone(world: World) -> None:
    await submit(world.channel, "b", {"a.jpg": b"one"})
    await watch(world.channel, "b")
    assert await submit(world.channel, "b", {"a.jpg": b"changed", "b.jpg": b"two"}) == {
        "a.jpg": "accepted",
        "b.jpg": "accepted",
    }
    ends = ended(await watch(world.channel, "b", after_sequence=1))
    assert [e.item.position for e in ends] == [2, 3]


async def test_a_restarted_coordinator_finishes_by_itself(world: World) -> None:
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        if item.data != b"first":
            await gate.wait()

    world.vision.before_tools = hold
    await submit(world.channel, "b", {"1.jpg": b"first", "2.jpg": b"second", "3.jpg": b"third"})
    response = await anext(aiter(stub(world).WatchBatch(batch_pb2.WatchBatchRequest(batch_id="b"), timeout=20)))
    assert response.HasField("batch")
    await until(lambda: reported(world, "b", 1))
    await restart(world)
    gate.set()
    ends = ended(await watch(world.channel, "b"))
    assert [e.item.sequence for e in ends] == [1, 2, 3]
    assert sorted(e.item.name for e in ends) == ["1.jpg", "2.jpg", "3.jpg"]
    assert [item.data for item in world.vision.items].count(b"first") == 1


async def test_a_watch_goes_on_from_its_cursor(world: World) -> None:
    await submit(world.channel, "b", {f"{n}.jpg": b"%d" % n for n in range(4)})
    await watch(world.channel, "b")
    ends = ended(await watch(world.channel, "b", after_sequence=2, skip_reports=True))
    assert [e.item.sequence for e in ends] == [3, 4]
    assert not any(e.HasField("report") for e in ends)


async def test_a_watch_of_an_open_batch_waits_and_a_snapshot_does_not(world: World) -> None:
    await submit(world.channel, "b", {"a.jpg": b"one"}, seal=False)
    waiting = asyncio.ensure_future(watch(world.channel, "b"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert (await watch(world.channel, "b", snapshot=True))[-1].batch.state == batch_pb2.BATCH_STATE_OPEN
    await submit(world.channel, "b", {"b.jpg": b"two"})
    assert len(ended(await waiting)) == 2


async def test_progress_tells_what_happens_to_running_items(world: World) -> None:
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()

    world.vision.before_tools = hold
    await submit(world.channel, "b", {"a.jpg": b"one"})
    watching = asyncio.ensure_future(watch(world.channel, "b", progress=True))
    await asyncio.sleep(0.2)
    gate.set()
    kinds = [r.progress.event.WhichOneof("event") for r in await watching if r.HasField("progress")]
    assert kinds == [*["tool_result"] * 4, "verdict_reached"]


async def test_a_picture_of_its_own_fault_fails_and_stays_failed(world: World) -> None:
    async def refuse(item: Item, attempt: int) -> None:
        raise MaifsError(Reason.NOT_AN_IMAGE, "no image")

    world.vision.before_tools = refuse
    await submit(world.channel, "b", {"a.txt": b"text"})
    end_of_item = ended(await watch(world.channel, "b"))[0]
    assert end_of_item.item.state == batch_pb2.BATCH_ITEM_STATE_FAILED
    assert from_status(end_of_item.item.error).reason is Reason.NOT_AN_IMAGE
    assert await submit(world.channel, "b", {"a.txt": b"text"}, retry_failed=True) == {"a.txt": "known"}


async def test_a_failure_that_is_not_the_pictures_is_tried_again_on_request(world: World) -> None:
    async def fail_once(item: Item, attempt: int) -> None:
        if attempt == 1:
            raise MaifsError(Reason.BACKEND_FAILED, "a bug")

    world.vision.before_tools = fail_once
    await submit(world.channel, "b", {"a.jpg": b"one"})
    assert ended(await watch(world.channel, "b"))[0].item.state == batch_pb2.BATCH_ITEM_STATE_FAILED
    assert await submit(world.channel, "b", {"a.jpg": b"one"}) == {"a.jpg": "known"}
    assert await submit(world.channel, "b", {"a.jpg": b"one"}, retry_failed=True) == {"a.jpg": "accepted"}
    ends = ended(await watch(world.channel, "b"))
    assert [(e.item.position, e.item.sequence, e.item.state) for e in ends] == [
        (1, 2, batch_pb2.BATCH_ITEM_STATE_REPORTED)
    ]


async def test_a_batch_waits_for_a_vision_service_that_is_away(world: World) -> None:
    await world.stop("vision")
    await submit(world.channel, "b", {f"{n}.jpg": b"%d" % n for n in range(3)})
    responses = aiter(stub(world).WatchBatch(batch_pb2.WatchBatchRequest(batch_id="b"), timeout=30))
    first = await anext(responses)
    while not first.batch.problem:
        first = await anext(responses)
    assert "vision" in first.batch.problem.lower()
    await world.start_vision()
    ends = ended([response async for response in responses])
    assert [e.item.state for e in ends] == [batch_pb2.BATCH_ITEM_STATE_REPORTED] * 3


async def test_an_item_that_loses_the_vision_service_again_and_again_is_given_up_alone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.journal.runner._LONGEST_PAUSE_S", 0.3)
    together: list[int] = []

    async def poison(item: Item, attempt: int) -> None:
        if item.data == b"poison":
            together.append(world.vision.concurrent)
            raise MaifsError(Reason.BACKEND_UNAVAILABLE, "the process died")

    world.vision.before_tools = poison
    await submit(world.channel, "b", {"poison.jpg": b"poison", **{f"{n}.jpg": b"%d" % n for n in range(6)}})
    ends = {e.item.name: e.item for e in ended(await watch(world.channel, "b"))}
    error = from_status(ends.pop("poison.jpg").error)
    assert error.reason is Reason.BACKEND_FAILED
    assert "5 times" in error.message
    assert {item.state for item in ends.values()} == {batch_pb2.BATCH_ITEM_STATE_REPORTED}
    assert set(together[-3:]) == {1}, "the last tries take no neighbour along"


async def test_cancel_ends_what_has_not_ended_and_the_batch_can_go_on(world: World) -> None:
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()

    world.vision.before_tools = hold
    pictures = {f"{n}.jpg": b"%d" % n for n in range(3)}
    await submit(world.channel, "b", pictures)
    watching = asyncio.ensure_future(watch(world.channel, "b"))
    answer = await stub(world).CancelBatch(batch_pb2.CancelBatchRequest(batch_id="b"))
    assert (answer.batch.state, answer.batch.cancelled_count) == (batch_pb2.BATCH_STATE_CANCELLED, 3)
    ends = ended(await watching)
    assert [from_status(e.item.error).reason for e in ends] == [Reason.CANCELLED] * 3
    assert not spooled(world)
    gate.set()
    await submit(world.channel, "b", pictures, retry_failed=True)
    again = ended(await watch(world.channel, "b", after_sequence=3))
    assert [e.item.sequence for e in again] == [4, 5, 6]
    assert {e.item.state for e in again} == {batch_pb2.BATCH_ITEM_STATE_REPORTED}


async def test_batches_take_turns(world: World) -> None:
    world_config = replace(world.config, batch_concurrency=1)
    world.config = world_config
    await restart(world)
    order: list[bytes] = []
    gate = asyncio.Event()

    async def note(item: Item, attempt: int) -> None:
        await gate.wait()
        order.append(item.data[:1])

    world.vision.before_tools = note
    await submit(world.channel, "a", {f"{n}.jpg": b"a%d" % n for n in range(4)})
    await submit(world.channel, "b", {f"{n}.jpg": b"b%d" % n for n in range(2)})
    gate.set()
    await watch(world.channel, "a")
    assert sorted(order[1:4]) in ([b"a", b"a", b"b"], [b"a", b"b", b"b"]), order


async def test_nothing_is_kept_in_memory_of_batches_that_have_ended(world: World) -> None:
    for n in range(8):
        await submit(world.channel, f"b{n}", {"a.jpg": b"picture %d" % n})
        await watch(world.channel, f"b{n}")
    assert world.service
    assert world.service._batches
    runner = world.service._batches.runner

    async def forgotten() -> bool:
        return not runner.turns_kept and not runner.running

    await until(forgotten)


async def test_no_more_of_a_batch_than_it_wants_is_under_way(world: World) -> None:
    options = batch_pb2.BatchOptions(analyze=RULES_ONLY.analyze, max_running_items_count=2)

    async def linger(item: Item, attempt: int) -> None:
        await asyncio.sleep(0.05)

    world.vision.before_tools = linger
    await submit(world.channel, "b", {f"{n}.jpg": b"%d" % n for n in range(6)}, options=options)
    await watch(world.channel, "b")
    assert world.vision.most_concurrent == 2


async def test_a_full_spool_refuses_with_a_time_to_wait_and_keeps_what_it_has(world: World) -> None:
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()

    world.vision.before_tools = hold
    submitter = Submitter(world.channel)
    await submitter.ask(begin("b"))
    for name in ("a", "b"):
        assert (await submitter.send(f"{name}.jpg", name.encode() * 900)).HasField("accepted")
    error = refusal(await submitter.send("c.jpg", b"c" * 900))
    assert error.reason is Reason.QUEUE_FULL
    assert error.retry_after_s > 0
    gate.set()
    await watch(world.channel, "b", snapshot=True)
    await until(lambda: reported(world, "b", 2))
    assert (await submitter.send("c.jpg", b"c" * 900, "c again")).HasField("accepted")
    await submitter.ask(SEAL)
    assert len(ended(await watch(world.channel, "b"))) == 3


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([offer("", b"x", "i")], Reason.INVALID_REQUEST),
        ([offer("n", b"x", "i", sha256=b"short")], Reason.INVALID_REQUEST),
        ([offer("n", b"", "i")], Reason.EMPTY_FILE),
        ([offer("n", b"x" * 1001, "i")], Reason.IMAGE_TOO_LARGE),
        ([end("i")], Reason.UNKNOWN_ITEM),
    ],
)
async def test_what_cannot_be_taken_is_refused_and_the_rest_goes_on(
    world: World, requests: list[batch_pb2.SubmitBatchRequest], reason: Reason
) -> None:
    submitter = Submitter(world.channel)
    await submitter.ask(begin("b"))
    assert refusal(await submitter.ask(*requests)).reason is reason
    assert (await submitter.send("good.jpg", b"good")).HasField("accepted")


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([chunk("i", b"xy", 1)], Reason.CHUNK_OFFSET),
        ([chunk("i", b"too long")], Reason.SIZE_MISMATCH),
        ([chunk("i", b"x"), end("i")], Reason.SIZE_MISMATCH),
        ([chunk("i", b"zzz"), end("i")], Reason.SHA256_MISMATCH),
        ([SEAL], Reason.ITEM_INCOMPLETE),
    ],
)
async def test_bytes_that_are_not_the_announced_ones_are_refused_and_leave_nothing(
    world: World, steps: list[batch_pb2.SubmitBatchRequest], reason: Reason
) -> None:
    submitter = Submitter(world.channel)
    await submitter.ask(begin("b"))
    assert (await submitter.ask(offer("a.jpg", b"xyz", "i"))).HasField("wanted")
    assert refusal(await submitter.ask(*steps)).reason is reason
    assert not spooled(world)


async def test_a_client_that_hangs_up_in_mid_file_leaves_nothing(world: World) -> None:
    submitter = Submitter(world.channel)
    await submitter.ask(begin("b"))
    await submitter.ask(offer("a.jpg", b"xyz", "i"))
    await submitter.call.write(chunk("i", b"x"))
    submitter.call.cancel()

    async def nothing_is_left() -> bool:
        return not spooled(world)

    await until(nothing_is_left)
    batch = (await stub(world).GetBatch(batch_pb2.GetBatchRequest(batch_id="b"))).batch
    assert (batch.state, batch.items_count) == (batch_pb2.BATCH_STATE_OPEN, 0)


async def test_other_options_under_the_same_id_are_refused(world: World) -> None:
    await submit(world.channel, "b", {})
    other = begin("b", batch_pb2.BatchOptions(analyze=coordinator_pb2.AnalyzeOptions(language="ko")))
    assert (await failing(Submitter(world.channel).ask(other))).reason is Reason.BATCH_MISMATCH


@pytest.mark.parametrize("batch_id", ["", "a/b", "x" * 129, "ü"])
async def test_a_batch_id_is_made_of_plain_characters(world: World, batch_id: str) -> None:
    assert (await failing(Submitter(world.channel).ask(begin(batch_id)))).reason is Reason.INVALID_REQUEST


async def test_batches_and_items_come_in_pages(world: World) -> None:
    for number in range(3):
        await submit(world.channel, f"b{number}", {f"{n}.jpg": b"%d" % n for n in range(3)})
        await watch(world.channel, f"b{number}")
    first = await stub(world).ListBatches(batch_pb2.ListBatchesRequest(page_size=2))
    second = await stub(world).ListBatches(batch_pb2.ListBatchesRequest(page_size=2, page_token=first.next_page_token))
    assert [b.batch_id for b in (*first.batches, *second.batches)] == ["b2", "b1", "b0"]
    assert not second.next_page_token
    items = await stub(world).ListBatchItems(batch_pb2.ListBatchItemsRequest(batch_id="b0", page_size=2))
    rest = await stub(world).ListBatchItems(
        batch_pb2.ListBatchItemsRequest(batch_id="b0", page_size=2, page_token=items.next_page_token)
    )
    assert [i.position for i in (*items.items, *rest.items)] == [1, 2, 3]
    assert not rest.next_page_token


async def test_reports_are_found_by_position_and_by_content(world: World) -> None:
    await submit(world.channel, "old", {"a.jpg": b"one"})
    await watch(world.channel, "old")
    await submit(world.channel, "new", {"b.jpg": b"one"})
    await watch(world.channel, "new")
    by_position = await stub(world).GetReport(batch_pb2.GetReportRequest(batch_id="old", position=1))
    by_content = await stub(world).GetReport(batch_pb2.GetReportRequest(sha256=digest(b"one")))
    narrowed = await stub(world).GetReport(batch_pb2.GetReportRequest(sha256=digest(b"one"), batch_id="old"))
    assert by_position.report.file_name == narrowed.report.file_name == "a.jpg"
    assert (by_content.batch_id, by_content.report.file_name) == ("new", "b.jpg")


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (batch_pb2.GetReportRequest(batch_id="b"), Reason.INVALID_REQUEST),
        (batch_pb2.GetReportRequest(position=1), Reason.INVALID_REQUEST),
        (batch_pb2.GetReportRequest(batch_id="none", position=1), Reason.UNKNOWN_BATCH),
        (batch_pb2.GetReportRequest(batch_id="b", position=9), Reason.UNKNOWN_REPORT),
        (batch_pb2.GetReportRequest(sha256=b"x" * 32), Reason.UNKNOWN_REPORT),
    ],
)
async def test_reports_that_do_not_exist_are_named(
    world: World, request_: batch_pb2.GetReportRequest, reason: Reason
) -> None:
    await submit(world.channel, "b", {"a.jpg": b"one"})
    assert (await failing(stub(world).GetReport(request_))).reason is reason


async def test_unknown_batches_and_bad_pages_are_refused(world: World) -> None:
    calls = {
        stub(world).GetBatch(batch_pb2.GetBatchRequest(batch_id="none")): Reason.UNKNOWN_BATCH,
        stub(world).CancelBatch(batch_pb2.CancelBatchRequest(batch_id="none")): Reason.UNKNOWN_BATCH,
        stub(world).ListBatchItems(batch_pb2.ListBatchItemsRequest(batch_id="none")): Reason.UNKNOWN_BATCH,
        stub(world).ListBatches(batch_pb2.ListBatchesRequest(page_token="x")): Reason.INVALID_REQUEST,
        stub(world).ListBatches(batch_pb2.ListBatchesRequest(page_size=-1)): Reason.INVALID_REQUEST,
    }
    for call, reason in calls.items():
        assert (await failing(call)).reason is reason


async def test_a_coordinator_without_a_state_folder_takes_no_batches(world: World) -> None:
    world.config = replace(world.config, state_folder=None)
    await restart(world)
    error = await failing(stub(world).ListBatches(batch_pb2.ListBatchesRequest()))
    assert error.reason is Reason.NO_JOURNAL
    assert "state_folder" in error.advice


async def test_a_second_coordinator_on_the_same_journal_is_refused(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.journal.lock.WAIT_S", 0.2)
    other = World(world.folder, replace(world.config, server=ServerConfig(f"unix:{world.folder}/other.sock")))
    with pytest.raises(MaifsError, match="in use by another coordinator") as caught:
        await other.start(vision=False, llm=False)
    assert caught.value.reason is Reason.JOURNAL_UNUSABLE
    await other.close()


async def test_a_full_disk_holds_reports_back_until_there_is_room(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.journal.store._FULL_RETRY_S", 0.1)
    assert world.service
    assert world.service._batches
    database: sqlite3.Connection = world.service._batches.journal.store._db
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()

    world.vision.before_tools = hold
    world.vision.results[0].findings[0].heat_map.png = bytes(100_000)
    await submit(world.channel, "b", {"a.jpg": b"one"})
    pages = database.execute("PRAGMA page_count").fetchone()[0]
    database.execute(f"PRAGMA max_page_count = {pages}").fetchall()  # what SQLite then says is what a full disk says
    gate.set()
    responses = aiter(stub(world).WatchBatch(batch_pb2.WatchBatchRequest(batch_id="b"), timeout=20))
    response: batch_pb2.WatchBatchResponse = await anext(responses)
    while "full" not in response.batch.problem:
        response = await anext(responses)
    database.execute("PRAGMA max_page_count = 1000000").fetchall()
    ends = ended([r async for r in responses])
    assert [e.item.state for e in ends] == [batch_pb2.BATCH_ITEM_STATE_REPORTED]
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_options_of_the_batch_reach_the_pipeline_and_bad_ones_are_refused(world: World) -> None:
    bad = batch_pb2.BatchOptions(analyze=coordinator_pb2.AnalyzeOptions(language="tlh"))
    assert "language" in (await failing(Submitter(world.channel).ask(begin("b", bad)))).message
    korean = batch_pb2.BatchOptions(analyze=coordinator_pb2.AnalyzeOptions(language="ko", skip_llm=True))
    await submit(world.channel, "k", {"a.jpg": b"one"}, options=korean)
    report = ended(await watch(world.channel, "k"))[0].report
    assert any("가" <= c <= "힣" for sentence in report.explanation.summary for c in sentence.text)


async def test_items_of_batches_are_counted(world: World) -> None:
    world.config = replace(world.config, batch_concurrency=2)
    await restart(world)
    gate = asyncio.Event()

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()
        if item.data == b"bad":
            raise MaifsError(Reason.NOT_AN_IMAGE, "no image")

    async def counts() -> tuple[int, int, int, int]:
        assert world.channel
        coordinators: Any = coordinator_pb2_grpc.CoordinatorServiceStub(world.channel)
        status = await coordinators.GetStatus(coordinator_pb2.GetStatusRequest())
        return (
            status.open_items_count,
            status.queued_batch_items_count,
            status.completed_items_count,
            status.failed_items_count,
        )

    async def are(*expected: int) -> None:
        async def reached() -> bool:
            return await counts() == expected

        await until(reached, 60)

    world.vision.before_tools = hold
    await submit(world.channel, "b", {"bad.jpg": b"bad", **{f"{n}.jpg": b"%d" % n for n in range(4)}})
    await are(2, 3, 0, 0)
    gate.set()
    await watch(world.channel, "b")
    await are(0, 0, 4, 1)
