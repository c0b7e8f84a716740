"""Several backends: who gets the work, what becomes of it when one dies or hangs, and how they come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1.health import aio as health_aio

from coordinator.backends import backend as backend_module
from coordinator.backends.backend import Health
from coordinator.backends.fair_queue import Priority, Turn
from coordinator.backends.pool import Pool
from maifs.coordinator.v1 import coordinator_pb2
from maifs.llm.v1 import llm_pb2_grpc
from maifs.vision.v1 import vision_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from serving.status import from_status
from tests.coordinator.conftest import World, item, kinds
from tests.coordinator.simulated import SimulatedLlm, SimulatedVision, start_server, unavailable
from tests.coordinator.waiting import until


@dataclass
class Extra:
    """More backends beside a world's own."""

    world: World
    visions: list[SimulatedVision] = field(default_factory=list)
    llms: list[SimulatedLlm] = field(default_factory=list)
    servers: dict[str, grpc.aio.Server] = field(default_factory=dict)

    async def start_vision(self, index: int) -> None:
        vision = self.visions[index]
        self.servers[f"v{index}"] = await start_server(
            self.world.config.vision_address[index + 1],
            lambda server: vision_pb2_grpc.add_VisionServiceServicer_to_server(vision, server),
            ("maifs.vision.v1.VisionService",),
        )

    async def start_llm(self, index: int) -> None:
        llm = self.llms[index]
        self.servers[f"l{index}"] = await start_server(
            self.world.config.llm_address[index + 1],
            lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(llm, server),
            ("maifs.llm.v1.LlmService",),
            health_aio.HealthServicer(),
        )

    async def stop(self, name: str) -> None:
        await self.servers.pop(name).stop(0)

    async def all_serving(self) -> None:
        """Waits until the coordinator knows of all of them."""
        service = self.world.service
        assert service is not None
        assert service.vision is not None
        pools: list[Pool[Any]] = [service.vision, *([service.llm] if service.llm else [])]
        await until(lambda: all(b.health is Health.SERVING for pool in pools for b in pool.backends))


@pytest.fixture
async def extra(make_world: Callable[..., World]) -> AsyncIterator[Callable[..., Extra]]:
    made: list[Extra] = []

    def make(visions: int = 0, llms: int = 0, **settings: object) -> Extra:
        base = make_world()
        addresses = {
            "vision_address": (*base.config.vision_address, *(f"unix:{base.folder}/v{i}.sock" for i in range(visions))),
            "llm_address": (*base.config.llm_address, *(f"unix:{base.folder}/l{i}.sock" for i in range(llms))),
        }
        world = make_world(**{**addresses, **settings})
        made.append(Extra(world, [SimulatedVision() for _ in range(visions)], [SimulatedLlm() for _ in range(llms)]))
        return made[-1]

    yield make
    for one in made:
        for server in one.servers.values():
            await server.stop(0)


async def status(world: World) -> list[coordinator_pb2.BackendStatus]:
    response = await world.stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10)
    return list(response.backends)


class TestVision:
    async def test_the_work_is_shared(self, extra: Callable[..., Extra]) -> None:
        both = extra(visions=1, vision_concurrency=2)
        await both.start_vision(0)
        await both.world.start()
        await both.all_serving()
        full, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_: Item, attempt: int) -> None:
            if both.world.vision.concurrent + both.visions[0].concurrent == 4:
                full.set()
            await go_on.wait()

        both.world.vision.before_tools = both.visions[0].before_tools = wait
        running = asyncio.ensure_future(
            both.world.stream([request for i in range(12) for request in item(f"i{i}")], timeout_s=30)
        )
        async with asyncio.timeout(10):
            await full.wait()
        states = [(b.open_calls_count, b.max_open_calls_count) for b in await status(both.world) if b.name == "vision"]
        assert states == [(2, 2), (2, 2)]
        go_on.set()
        assert sum(r.event.HasField("report") for r in await running) == 12
        assert both.world.vision.most_concurrent == both.visions[0].most_concurrent == 2

    async def test_a_picture_whose_backend_is_gone_is_sent_to_the_other(self, extra: Callable[..., Extra]) -> None:
        both = extra(visions=1)
        await both.start_vision(0)
        await both.world.start()
        await both.all_serving()

        async def die(_: Item, attempt: int) -> None:
            raise unavailable()

        both.world.vision.before_tools = die
        for _ in range(3):
            assert kinds(await both.world.analyze())[-1] == "report"
        assert len(both.world.vision.items) == 1, "it was sent more work although the other serves"
        assert len(both.visions[0].items) == 3

    async def test_one_that_is_down_gets_nothing_and_one_that_comes_back_gets_work(
        self, extra: Callable[..., Extra]
    ) -> None:
        both = extra(visions=1)
        await both.start_vision(0)
        await both.world.start()
        await both.all_serving()
        await both.stop("v0")
        first, second = both.world.service.vision.backends  # type: ignore[union-attr]
        await until(lambda: second.health is Health.UNREACHABLE)
        responses = await both.world.stream([request for i in range(6) for request in item(f"i{i}")])
        assert sum(r.event.HasField("report") for r in responses) == 6
        assert len(both.world.vision.items) == 6
        await both.start_vision(0)
        await until(lambda: second.health is Health.SERVING)
        go_on = asyncio.Event()

        async def wait(_: Item, attempt: int) -> None:
            await go_on.wait()

        both.world.vision.before_tools = both.visions[0].before_tools = wait
        running = asyncio.ensure_future(
            both.world.stream([request for i in range(2) for request in item(f"i{i}")], timeout_s=30)
        )
        await until(lambda: (first.open_calls, second.open_calls) == (1, 1))
        go_on.set()
        await running

    async def test_status_lists_each(self, extra: Callable[..., Extra]) -> None:
        both = extra(visions=1, llms=1)
        await both.start_llm(0)
        await both.world.start()
        told = {(b.name, b.address): b.state for b in await status(both.world)}
        serving, unreachable = coordinator_pb2.BACKEND_STATE_SERVING, coordinator_pb2.BACKEND_STATE_UNREACHABLE
        config = both.world.config
        assert told == {
            ("vision", config.vision_address[0]): serving,
            ("vision", config.vision_address[1]): unreachable,
            ("llm", config.llm_address[0]): serving,
            ("llm", config.llm_address[1]): serving,
        }

    async def test_a_stream_that_asks_for_much_does_not_keep_others_waiting(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(vision_concurrency=1)
        order: list[bytes] = []
        go_on = asyncio.Event()

        async def note(work: Item, attempt: int) -> None:
            order.append(work.data)
            if attempt == 1:
                await go_on.wait()

        world.vision.before_tools = note
        await world.start()
        greedy = asyncio.ensure_future(world.stream([r for i in range(6) for r in item(f"g{i}", b"greedy")]))
        vision = world.service.vision  # type: ignore[union-attr]
        assert vision is not None
        await until(lambda: vision.waiting == 5)
        modest = asyncio.ensure_future(world.stream(item("m", b"modest")))
        await until(lambda: vision.waiting == 6)
        go_on.set()
        await asyncio.gather(greedy, modest)
        assert order.index(b"modest") <= 2

    async def test_interactive_pictures_go_before_those_of_a_batch(self, make_world: Callable[..., World]) -> None:
        world = make_world(vision_concurrency=1)
        order: list[bytes] = []
        go_on = asyncio.Event()

        async def note(work: Item, attempt: int) -> None:
            order.append(work.data)
            if attempt == 1:
                await go_on.wait()

        world.vision.before_tools = note
        await world.start()
        options = coordinator_pb2.AnalyzeOptions(priority=coordinator_pb2.PRIORITY_BATCH)
        requests = [r for i in range(5) for r in item(f"b{i}", b"batch")]
        for request in requests[::2]:
            request.options.CopyFrom(options)
        batch = asyncio.ensure_future(world.stream(requests))
        vision = world.service.vision  # type: ignore[union-attr]
        assert vision is not None
        await until(lambda: vision.waiting == 4)
        person = asyncio.ensure_future(world.analyze(b"person"))
        await until(lambda: vision.waiting == 5)
        go_on.set()
        await asyncio.gather(batch, person)
        assert order == [b"batch", b"person", *[b"batch"] * 4]
        priorities = [request.priority for request in world.llm.requests]
        assert sorted(priorities) == [Priority.INTERACTIVE, *[Priority.BATCH] * 5]


class TestLanguageModel:
    async def test_one_that_dies_leaves_the_work_to_the_other(self, extra: Callable[..., Extra]) -> None:
        both = extra(llms=1)
        await both.start_llm(0)
        await both.world.start()
        await both.all_serving()
        await both.world.stop("llm")
        first = both.world.service.llm.backends[0]  # type: ignore[union-attr]
        await until(lambda: first.health is Health.UNREACHABLE)
        report = (await both.world.analyze())[-1].report
        assert not report.HasField("explanation_error")
        assert report.explanation.model_sentences_count > 0
        assert len(both.llms[0].requests) == 1

    async def test_one_that_hangs_is_left_out_at_once_until_a_probe_passes(
        self, make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(backend_module, "FIRST_PROBE_S", 0.05)
        monkeypatch.setattr(backend_module, "LAST_PROBE_S", 0.05)
        monkeypatch.setattr("coordinator.llm_client._PROBE_TIMEOUT_S", 0.2)
        world = make_world(llm_timeout_s=0.2, max_timeouts=2)
        await world.start()
        await world.analyze()
        healthy = asyncio.Event()

        async def hang() -> None:
            await healthy.wait()

        world.llm.before_finish = hang
        for _ in range(2):
            report = (await world.analyze())[-1].report
            assert from_status(report.explanation_error).reason is Reason.DEADLINE_EXCEEDED
        asked = len(world.llm.requests)
        report = (await world.analyze())[-1].report
        assert from_status(report.explanation_error).reason is Reason.BACKEND_UNAVAILABLE
        assert "did not answer 2 times in a row" in report.explanation_error.message
        questions = [r for r in world.llm.requests[asked:] if r.json_schema]
        assert not questions, "a picture was sent to a language model that hangs"
        llm = (await status(world))[-1]
        assert llm.state == coordinator_pb2.BACKEND_STATE_SUSPENDED
        assert "did not answer" in llm.reason
        healthy.set()
        backend = world.service.llm.backends[0]  # type: ignore[union-attr]
        await until(lambda: not backend.suspended)
        assert not (await world.analyze())[-1].report.HasField("explanation_error")

    async def test_those_that_wait_for_one_that_hangs_are_sent_away_too(self, make_world: Callable[..., World]) -> None:
        world = make_world(llm_timeout_s=0.3, max_timeouts=1, llm_concurrency=1)
        world.llm.before_finish = lambda: asyncio.sleep(30)
        await world.start()
        responses = await world.stream([r for i in range(4) for r in item(f"i{i}")])
        reasons = sorted(
            from_status(r.event.report.explanation_error).reason for r in responses if r.event.HasField("report")
        )
        assert reasons == [*[Reason.BACKEND_UNAVAILABLE] * 3, Reason.DEADLINE_EXCEEDED]
        assert len([r for r in world.llm.requests if r.json_schema]) == 1

    async def test_a_client_in_a_hurry_does_not_make_it_look_hung(self, make_world: Callable[..., World]) -> None:
        world = make_world(max_timeouts=1)
        world.llm.before_finish = lambda: asyncio.sleep(30)
        await world.start()
        await world.analyze(llm_timeout_seconds=0.1)
        assert not world.service.llm.backends[0].suspended  # type: ignore[union-attr]


async def test_a_place_given_to_somebody_who_has_left_is_not_lost(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=1)
    await world.start()
    pool = world.service.vision  # type: ignore[union-attr]
    assert pool is not None

    async def hold(seconds: float) -> None:
        async with pool.slot(Turn()):
            await asyncio.sleep(seconds)

    for delay in (0.0, 0.001, 0.002):
        tasks = [asyncio.ensure_future(hold(delay)) for _ in range(20)]
        await asyncio.sleep(0)
        for number, task in enumerate(tasks):
            if number % 3:
                task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(*tasks, return_exceptions=True)
    assert [backend.open_calls for backend in pool.backends] == [0]
    assert pool.waiting == 0
    async with asyncio.timeout(5):
        await hold(0)


async def test_suspended_for_being_unavailable_it_is_still_used_when_there_is_no_other(world: World) -> None:
    pool = world.service.vision  # type: ignore[union-attr]
    assert pool is not None
    pool.backends[0].failed(MaifsError(Reason.BACKEND_UNAVAILABLE, "gone"))
    assert pool.backends[0].suspended
    assert kinds(await world.analyze())[-1] == "report"
    assert not pool.backends[0].suspended


async def test_following_its_health_does_not_keep_a_backend_from_draining(world: World) -> None:
    llm = world.service.llm  # type: ignore[union-attr]
    assert llm is not None
    await until(lambda: llm.backends[0].health is Health.SERVING)
    await world.set_llm_health(serving=False)
    await until(lambda: llm.backends[0].health is Health.NOT_SERVING)
    async with asyncio.timeout(10):
        await world.servers.pop("llm").stop(30)
