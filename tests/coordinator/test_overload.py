"""More pictures than the vision services can look at: who is refused, when, and what becomes of the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import grpc
import pytest

from coordinator.backends.fair_queue import Turn
from coordinator.backends.pace import HEADROOM, Pace
from coordinator.backends.pool import Pool
from coordinator.vision_client import VisionClient
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from serving.status import from_rpc_error, from_status
from tests.coordinator.conftest import World, has_retry_info, item, kinds
from tests.coordinator.waiting import until


class TestPace:
    def test_a_call_waits_for_those_before_it_shared_among_the_places(self) -> None:
        pace = Pace()
        assert pace.wait_s(100, 4, 4) == 0.0
        pace.ended(2.0, well=True)
        assert pace.wait_s(0, 3, 4) == 0.0
        assert pace.wait_s(0, 4, 4) == pytest.approx(0.5)
        assert pace.wait_s(7, 4, 4) == pytest.approx(4.0)

    def test_it_follows_a_service_that_becomes_quicker(self) -> None:
        pace = Pace()
        pace.ended(10.0, well=True)
        for _ in range(20):
            pace.ended(1.0, well=True)
        assert pace.held_s == pytest.approx(1.0, abs=0.2)

    def test_a_call_that_was_given_up_tells_only_that_it_took_longer(self) -> None:
        pace = Pace()
        pace.ended(2.0, well=True)
        pace.ended(0.0, well=False)
        assert pace.held_s == 2.0
        pace.ended(4.0, well=False)
        assert pace.held_s > 2.0


def pool_of(world: World) -> Pool[VisionClient]:
    assert world.service is not None
    assert world.service.vision is not None
    return world.service.vision


class Gate:
    """Holds every picture at the vision service until it is opened."""

    def __init__(self, world: World) -> None:
        self.opened = asyncio.Event()
        world.vision.before_tools = self._wait

    async def _wait(self, _: Item, attempt: int) -> None:
        await self.opened.wait()


async def test_what_would_come_too_late_is_refused_at_once_and_what_would_not_waits(
    make_world: Callable[..., World],
) -> None:
    world = make_world(vision_concurrency=1, llm_address=())
    await world.start(llm=False)
    pool, gate = pool_of(world), Gate(world)
    pool._pace.ended(20.0, well=True)
    patient = [asyncio.ensure_future(world.analyze(f"p{i}".encode(), timeout_s=600)) for i in range(3)]
    await until(lambda: pool.waiting == 2)
    assert pool.expected_wait_s(Turn("somebody")) > 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await world.analyze(b"hurried", timeout_s=30)
    error = from_rpc_error(caught.value, "coordinator")
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert error.reason is Reason.QUEUE_FULL
    assert error.retry_after_s == 30.0
    responses = await world.stream(item("hurried", b"hurried"), timeout_s=30)
    assert [r.event.WhichOneof("event") for r in responses] == ["error"]
    assert has_retry_info(responses[0].event.error)
    assert from_status(responses[0].event.error).reason is Reason.QUEUE_FULL
    gate.opened.set()
    assert [kinds(events)[-1] for events in await asyncio.gather(*patient)] == ["report"] * 3
    assert sorted(seen.data for seen in world.vision.items) == [b"p0", b"p1", b"p2"]


async def test_a_free_place_is_given_whatever_was_measured_before(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=1, llm_address=())
    await world.start(llm=False)
    pool_of(world)._pace.ended(1000.0, well=True)
    assert kinds(await world.analyze(timeout_s=30))[-1] == "report"
    assert pool_of(world)._pace.held_s < 1000.0


async def test_streams_without_a_deadline_wait(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=1, llm_address=())
    await world.start(llm=False)
    pool_of(world)._pace.ended(0.5, well=True)
    responses = await world.stream([r for i in range(6) for r in item(f"i{i}", b"%d" % i)], timeout_s=None)
    assert sum(r.event.HasField("report") for r in responses) == 6


async def test_far_above_what_it_can_do_it_refuses_and_ends_what_it_accepted(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=2, llm_address=(), cache_bytes=0)
    await world.start(llm=False)

    async def take_a_while(_: Item, attempt: int) -> None:
        await asyncio.sleep(0.1)

    world.vision.before_tools = take_a_while
    await asyncio.gather(*(world.analyze(b"first", timeout_s=60) for _ in range(4)))
    ends: Counter[str] = Counter()

    async def call(number: int) -> None:
        try:
            events = await world.analyze(b"%d" % number, timeout_s=5)
        except grpc.aio.AioRpcError as error:
            ends[from_rpc_error(error, "coordinator").reason.name] += 1
        else:
            ends[kinds(events)[-1]] += 1

    calls = []
    for number in range(600):
        calls.append(asyncio.ensure_future(call(number)))
        await asyncio.sleep(0.004)
    await asyncio.gather(*calls)
    late = 600 - ends["report"] - ends["QUEUE_FULL"]
    assert ends["QUEUE_FULL"] >= 200, ends
    assert ends["report"] >= 10, ends
    assert late <= ends["report"], ends
    assert pool_of(world).waiting == 0
    assert kinds(await world.analyze(b"after", timeout_s=60))[-1] == "report"


async def test_the_refusal_says_what_was_reckoned(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=1, llm_address=())
    await world.start(llm=False)
    pool, gate = pool_of(world), Gate(world)
    pool._pace.ended(8.0, well=True)
    working = asyncio.ensure_future(world.analyze(timeout_s=600))
    await until(lambda: pool.backends[0].open_calls == 1)
    now = asyncio.get_running_loop().time()
    pool.refuse_if_late(Turn("a"), now + 16.5 * HEADROOM)
    with pytest.raises(MaifsError, match=r"0 waiting; this one would begin in about 12.0 s.*deadline is in 2\d\.\d s"):
        pool.refuse_if_late(Turn("a"), now + 15.5 * HEADROOM)
    gate.opened.set()
    await working
