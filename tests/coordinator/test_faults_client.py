"""What becomes of a picture when its client hangs up, cancels, is late, does not read or wants too much."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2
from serving.errors import Reason
from serving.item_stream import Item
from serving.status import from_rpc_error, from_status
from tests.coordinator.conftest import Request, World, has_retry_info, item, kinds
from tests.coordinator.waiting import until


async def test_a_client_that_hangs_up_ends_the_work_at_both_backends(world: World) -> None:
    async def hang() -> None:
        await asyncio.sleep(30)

    world.llm.before_finish = hang
    call = world.stub.Analyze(_request(), timeout=20)
    await until(lambda: bool(world.llm.requests))
    call.cancel()
    await until(lambda: world.llm.cancelled == 1)


async def test_a_client_that_hangs_up_during_the_tools_ends_them(world: World) -> None:
    async def hang(_: Item, attempt: int) -> None:
        await asyncio.sleep(30)

    world.vision.before_tools = hang
    call = world.stub.Analyze(_request(), timeout=20)
    await until(lambda: bool(world.vision.items))
    call.cancel()
    await until(lambda: world.vision.ended == ["cancelled"])
    assert not world.llm.requests


async def test_a_client_whose_deadline_passes_ends_the_work(world: World) -> None:
    async def hang(_: Item, attempt: int) -> None:
        await asyncio.sleep(30)

    world.vision.before_tools = hang
    with pytest.raises(grpc.aio.AioRpcError):
        await world.analyze(timeout_s=1.5)
    await until(lambda: world.vision.ended == ["cancelled"])


async def test_a_client_cancels_one_item_and_its_neighbour_goes_on(world: World) -> None:
    async def hang(work: Item, attempt: int) -> None:
        if work.data == b"slow":
            await asyncio.sleep(30)

    world.vision.before_tools = hang

    async def send() -> None:
        for request in [*item("slow", b"slow"), *item("quick", b"quick")]:
            await call.write(request)
        await until(lambda: len(world.vision.items) == 2)
        await call.write(Request(item_id="slow", cancel=image_pb2.CancelItem()))
        await call.done_writing()

    call = world.stub.AnalyzeStream(timeout=20)
    sending = asyncio.ensure_future(send())
    ends = {}
    while (response := await call.read()) is not grpc.aio.EOF:
        if response.event.WhichOneof("event") in {"report", "error"}:
            assert response.item_id not in ends
            ends[response.item_id] = response.event
    await sending
    assert ends["quick"].HasField("report")
    assert from_status(ends["slow"].error).reason is Reason.CANCELLED
    await until(lambda: world.vision.ended.count("cancelled") == 1)


async def test_a_client_cancels_an_item_that_the_language_model_is_at(world: World) -> None:
    world.llm.before_finish = lambda: asyncio.sleep(30)
    call = world.stub.AnalyzeStream(timeout=20)
    for request in item("a"):
        await call.write(request)
    await until(lambda: bool(world.llm.requests))
    await call.write(Request(item_id="a", cancel=image_pb2.CancelItem()))
    await call.done_writing()
    events = [response.event async for response in call]
    assert from_status(events[-1].error).reason is Reason.CANCELLED
    assert sum(event.WhichOneof("event") in {"report", "error"} for event in events) == 1
    await until(lambda: world.llm.cancelled == 1)


async def test_a_client_that_hangs_up_during_a_second_look_ends_all_of_it(make_world: Callable[..., World]) -> None:
    world = make_world(second_look=True)
    world.llm.before_finish = lambda: asyncio.sleep(30)
    await world.start()
    call = world.stub.Analyze(_request(), timeout=20)
    await until(lambda: len(world.llm.requests) == 3)  # the explanation and a reading for each side
    call.cancel()
    await until(lambda: world.llm.cancelled == 3)


async def test_the_deadline_reaches_both_backends(world: World) -> None:
    await world.analyze(timeout_s=6)
    assert world.vision.deadlines
    assert world.llm.deadlines
    for left in (*world.vision.deadlines, *world.llm.deadlines):
        assert left is not None
        assert left <= 6.5  # gRPC rounds up on the way


async def test_without_a_deadline_the_backends_have_those_of_the_settings(make_world: Callable[..., World]) -> None:
    world = make_world(item_timeout_s=70, llm_timeout_s=50)
    await world.start()
    await world.stream(item("a"), timeout_s=None)
    (vision_left,), (llm_left,) = world.vision.deadlines, world.llm.deadlines
    assert 60 < (vision_left or 0) < 71
    assert 40 < (llm_left or 0) < 51


async def test_a_client_knows_how_many_items_it_may_begin(make_world: Callable[..., World]) -> None:
    world = make_world(max_open_items=3)
    go_on = asyncio.Event()

    async def wait(_: Item, attempt: int) -> None:
        await go_on.wait()

    world.vision.before_tools = wait
    await world.start()
    running = asyncio.ensure_future(world.stream([r for i in range(4) for r in item(f"i{i}")]))
    await until(lambda: len(world.vision.items) == 3)
    go_on.set()
    responses = await running
    credit = [r.event.accepted.credit_items_count for r in responses if r.event.HasField("accepted")]
    assert credit == [2, 1, 0]
    refused = [from_status(r.event.error) for r in responses if r.event.HasField("error")]
    assert [(error.reason, error.retry_after_s > 0) for error in refused] == [(Reason.TOO_MANY_OPEN_ITEMS, True)]


async def test_a_client_that_does_not_read_is_stopped_by_flow_control(make_world: Callable[..., World]) -> None:
    world = make_world(max_open_items=8)
    world.vision.results[0].findings[0].heat_map.png = bytes(2_000_000)  # fills the flow-control window
    await world.start()
    data, written = bytes(300_000), 0
    call = world.stub.AnalyzeStream(timeout=60)

    async def write() -> None:
        nonlocal written
        for number in range(400):
            for request in item(f"i{number}", data):
                await call.write(request)
            written += 1

    writing = asyncio.ensure_future(write())
    await asyncio.wait({writing}, timeout=2)
    assert not writing.done(), "it took 120 MB of pictures from a client that does not read"
    status = await world.stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10)
    assert status.held_bytes <= 8 * len(data)
    writing.cancel()
    call.cancel()


async def test_a_client_that_does_not_read_keeps_no_place_at_the_vision_service(
    make_world: Callable[..., World],
) -> None:
    world = make_world(vision_concurrency=1)
    world.vision.results[0].findings[0].heat_map.png = bytes(2_000_000)  # fills the flow-control window
    await world.start()
    idle = world.stub.AnalyzeStream(timeout=60)
    for i in range(16):
        for request in item(f"i{i}"):
            await idle.write(request)
    events = await world.analyze(timeout_s=10)
    assert kinds(events)[-1] == "report"
    idle.cancel()


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
async def test_an_impossible_wait_is_refused(world: World, seconds: float) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.analyze(llm_timeout_seconds=seconds)
    assert from_rpc_error(caught.value, "c").reason is Reason.INVALID_REQUEST


async def test_more_bytes_than_the_coordinator_holds_are_refused_with_a_time_to_wait(
    make_world: Callable[..., World],
) -> None:
    world = make_world(max_image_bytes=1000, max_held_bytes=1000)
    go_on = asyncio.Event()

    async def wait(_: Item, attempt: int) -> None:
        await go_on.wait()

    world.vision.before_tools = wait
    await world.start()
    responses: Awaitable[list[coordinator_pb2.AnalyzeStreamResponse]] = asyncio.ensure_future(
        world.stream([*item("one", bytes(600)), *item("two", bytes(600))])
    )
    await until(lambda: bool(world.vision.items))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.analyze(bytes(600))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    go_on.set()
    ends = {r.item_id: r.event for r in await responses if r.event.WhichOneof("event") in {"report", "error"}}
    assert ends["one"].HasField("report")
    assert from_status(ends["two"].error).reason is Reason.QUEUE_FULL
    assert has_retry_info(ends["two"].error)


def _request() -> coordinator_pb2.AnalyzeRequest:
    return coordinator_pb2.AnalyzeRequest(image=image_pb2.Image(data=b"picture", file_name="a.jpg"))
