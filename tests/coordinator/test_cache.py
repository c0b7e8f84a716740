"""Reports that are used again, and those that are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from coordinator.backends.backend import Health
from coordinator.backends.pool import Pool
from coordinator.cache import CacheKey, ReportCache
from coordinator.cache_store import FILE_NAME, CacheStore
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from serving.errors import MaifsError, Reason
from tests.coordinator.conftest import World, kinds
from tests.coordinator.waiting import until

MIB = 1024 * 1024


@pytest.fixture
async def cached(make_world: Callable[..., World]) -> World:
    world = make_world(cache_bytes=MIB)
    await world.start()
    await known(world)
    return world


async def known(world: World) -> None:
    """Waits until the coordinator knows the versions of its backends."""
    service = world.service
    assert service is not None
    assert service.vision is not None
    pools: list[Pool[Any]] = [service.vision, *([service.llm] if service.llm else [])]
    await until(lambda: all(b.health is Health.SERVING and b.identity for pool in pools for b in pool.backends))


async def test_the_same_file_is_answered_from_the_cache_and_the_report_says_so(cached: World) -> None:
    first = (await cached.analyze(file_name="a.jpg"))[-1].report
    events = await cached.analyze(file_name="b.jpg")
    assert kinds(events) == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    second = events[-1].report
    assert len(cached.vision.items) == len(cached.llm.requests) == 1
    assert not first.HasField("from_cache")
    assert second.file_name == "b.jpg"
    assert second.create_time == first.create_time
    assert second.request_id == first.request_id
    assert second.from_cache.request_id != first.request_id
    assert second.from_cache.serve_time.ToNanoseconds() > first.create_time.ToNanoseconds()
    second.ClearField("from_cache")
    second.file_name = first.file_name
    assert second == first
    status = await cached.stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10)
    assert (status.cache.reports_count, status.cache.hits_count) == (1, 1)
    assert 0 < status.cache.held_bytes <= status.cache.max_held_bytes == MIB


@pytest.mark.parametrize("change", ["file", "language", "without the model", "on request"])
async def test_another_question_is_not_answered_from_it(cached: World, change: str) -> None:
    await cached.analyze()
    if change == "file":
        report = (await cached.analyze(b"another"))[-1].report
    elif change == "language":
        report = (await cached.analyze(language="ko"))[-1].report
    elif change == "without the model":
        report = (await cached.analyze(skip_llm=True))[-1].report
    else:
        report = (await cached.analyze(skip_cache=True))[-1].report
    assert not report.HasField("from_cache")
    assert len(cached.vision.items) == 2


@pytest.mark.parametrize("part", ["tool", "test", "model"])
async def test_a_new_version_is_asked_anew(cached: World, part: str) -> None:
    await cached.analyze()
    if part != "model":
        cached.vision.version = "2.0.0" if part == "tool" else cached.vision.version
        cached.vision.source = "another plug-in" if part == "test" else cached.vision.source
        await cached.stop("vision")
        await until(lambda: cached.service.vision.backends[0].health is Health.UNREACHABLE)  # type: ignore[union-attr]
        await cached.start_vision()
    else:
        cached.llm.model = "another-1b"
        await cached.set_llm_health(serving=False)
        await until(lambda: cached.service.llm.backends[0].health is Health.NOT_SERVING)  # type: ignore[union-attr]
        await cached.set_llm_health(serving=True)
    await known(cached)
    assert not (await cached.analyze())[-1].report.HasField("from_cache")


async def test_it_answers_even_while_the_backends_are_away(cached: World) -> None:
    await cached.analyze()
    await cached.stop("vision")
    await cached.stop("llm")
    assert (await cached.analyze())[-1].report.HasField("from_cache")


@pytest.mark.parametrize("fault", ["model", "tool"])
async def test_a_report_that_lacks_something_is_not_kept(cached: World, fault: str) -> None:
    if fault == "model":
        cached.llm.fail = MaifsError(Reason.QUEUE_FULL, "full")
    else:
        cached.vision.results[1].outcome = finding_pb2.OUTCOME_FAILED
    await cached.analyze()
    assert not (await cached.analyze())[-1].report.HasField("from_cache")


async def test_it_can_be_turned_off(world: World) -> None:
    await known(world)
    await world.analyze()
    assert not (await world.analyze())[-1].report.HasField("from_cache")


def key(name: str) -> CacheKey:
    return CacheKey(name.encode(), "vision", "llm", "policy", "en")


async def test_it_holds_no_more_bytes_than_set_and_drops_what_was_asked_for_longest_ago() -> None:
    report = report_pb2.Report(file_name="x" * 1000)
    size = report.ByteSize()
    cache = ReportCache(3 * size)
    for name in "abc":
        cache.add(key(name), report)
    assert await cache.find(key("a"))
    cache.add(key("d"), report)
    assert await cache.find(key("b")) is None
    assert all([await cache.find(key(name)) for name in "acd"])
    assert cache.held_bytes == 3 * size
    cache.add(key("e"), report_pb2.Report(file_name="x" * 4 * size))
    assert await cache.find(key("e")) is None
    assert len(cache) == 3


class TestOnDisk:
    async def test_a_report_outlives_the_coordinator(self, make_world: Callable[..., World], tmp_path: Path) -> None:
        settings = {"cache_bytes": MIB, "state_folder": tmp_path / "state"}
        before = make_world(**settings)
        await before.start()
        await known(before)
        first = (await before.analyze())[-1].report
        await before.close()
        after = make_world(**settings)
        await after.start()
        await known(after)
        report = (await after.analyze())[-1].report
        assert report.HasField("from_cache")
        assert report.create_time == first.create_time
        assert not after.vision.items

    async def test_it_stays_within_its_size(self, tmp_path: Path) -> None:
        store = CacheStore(tmp_path, 3000)
        for name in "abc":
            await store.add(name, bytes(1000))
        assert await store.find("a") == bytes(1000)
        await store.add("d", bytes(1000))
        assert await store.find("b") is None
        assert [await store.find(name) for name in "acd"] == [bytes(1000)] * 3
        await store.add("d", bytes(500))
        await store.add("e", bytes(4000))
        assert await store.find("e") is None
        await store.close()
        again = CacheStore(tmp_path, 3000)
        assert await again.find("d") == bytes(500)
        await again.add("f", bytes(500))
        assert await again.find("a") == bytes(1000)
        await again.close()

    @pytest.mark.parametrize("fault", ["no database", "a folder", "no permission to make it"])
    async def test_one_that_cannot_be_used_is_done_without(self, tmp_path: Path, fault: str) -> None:
        folder = tmp_path / "state"
        if fault == "no database":
            folder.mkdir()
            (folder / FILE_NAME).write_bytes(b"no database" * 1000)
        elif fault == "a folder":
            (folder / FILE_NAME).mkdir(parents=True)
        else:
            folder.write_bytes(b"a file where the folder should be")
        cache = ReportCache(MIB, CacheStore(folder, MIB))
        cache.add(key("a"), report_pb2.Report(file_name="a"))
        assert await cache.find(key("a"))
        assert await cache.find(key("b")) is None
        await cache.close()


def test_keys_differ_in_every_part() -> None:
    keys = [
        key("a"),
        key("b"),
        CacheKey(b"a", "v2", "llm", "policy", "en"),
        CacheKey(b"a", "vision", "", "policy", "en"),
    ]
    assert len({k.digest() for k in keys}) == len(keys)
