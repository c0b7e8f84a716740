"""What becomes of a picture when the vision service is slow, dead, wrong or gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from google.rpc import status_pb2

from maifs.common.v1 import finding_pb2
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from serving.status import from_status
from tests.coordinator.conftest import World, has_retry_info, kinds
from tests.coordinator.simulated import unavailable
from tests.coordinator.waiting import eventually, until


async def test_down(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.start(vision=False)
    events = await world.analyze()
    assert kinds(events) == ["accepted", "error"]
    assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
    assert has_retry_info(events[-1].error)


async def test_found_when_it_comes(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.start(vision=False)
    await world.analyze()
    await world.start_vision()

    async def works() -> bool:
        return kinds(await world.analyze())[-1] == "report"

    await eventually(works)


async def test_unavailable_once_before_any_finding_is_tried_again(world: World) -> None:
    async def first_fails(_: Item, attempt: int) -> None:
        if attempt == 1:
            raise unavailable()

    world.vision.before_tools = first_fails
    events = await world.analyze()
    assert kinds(events) == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    assert len(world.vision.items) == 2


async def test_unavailable_twice_is_the_items_error(world: World) -> None:
    async def fails(_: Item, attempt: int) -> None:
        raise unavailable()

    world.vision.before_tools = fails
    events = await world.analyze()
    assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
    assert len(world.vision.items) == 2


async def test_unavailable_after_a_finding_is_not_tried_again(world: World) -> None:
    async def fails(_: Item, number: int) -> None:
        raise unavailable()

    world.vision.between_tools = fails
    events = await world.analyze()
    assert kinds(events) == ["accepted", "tool_result", "error"]
    assert has_retry_info(events[-1].error)
    assert len(world.vision.items) == 1


async def test_killed_in_the_middle(world: World) -> None:
    async def die(_: Item, attempt: int) -> None:
        world.killing = asyncio.ensure_future(world.stop("vision"))
        await asyncio.sleep(30)

    world.vision.before_tools = die
    events = await world.analyze()
    assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
    assert has_retry_info(events[-1].error)


async def test_the_pictures_own_fault_is_handed_on(world: World) -> None:
    async def refuse(_: Item, attempt: int) -> None:
        raise MaifsError(Reason.CORRUPT_IMAGE, "The JPEG ends after 10 bytes.", "Send it again.")

    world.vision.before_tools = refuse
    error = from_status((await world.analyze())[-1].error)
    assert (error.reason, error.message, error.advice) == (
        Reason.CORRUPT_IMAGE, "The JPEG ends after 10 bytes.", "Send it again.",
    )  # fmt: skip


async def test_too_slow(make_world: Callable[..., World]) -> None:
    world = make_world(item_timeout_s=1)

    async def hang(_: Item, attempt: int) -> None:
        await asyncio.sleep(30)

    world.vision.before_tools = hang
    await world.start()
    events = await world.analyze()
    assert from_status(events[-1].error).reason is Reason.DEADLINE_EXCEEDED
    await until(lambda: world.vision.ended == ["cancelled"])


async def test_one_tool_that_failed_is_named_and_the_others_count(world: World) -> None:
    broken = finding_pb2.ToolResult(
        tool=finding_pb2.TOOL_NOISE,
        outcome=finding_pb2.OUTCOME_FAILED,
        error=status_pb2.Status(code=13, message="out of memory"),
    )
    world.vision.results[1] = broken
    report = (await world.analyze())[-1].report
    assert len(report.warnings) == 1
    assert "noise" in report.warnings[0]
    assert "out of memory" in report.warnings[0]
    assert report.fusion.contributions[0].finding_id == "frequency.foreign_grid"
    reading = next(r for r in report.explanation.tool_readings if r.tool == finding_pb2.TOOL_NOISE)
    assert reading.sentences


async def test_one_test_that_failed_is_named(world: World) -> None:
    finding = world.vision.results[1].findings[0]
    finding.outcome = finding_pb2.OUTCOME_FAILED
    finding.reason = "ValueError: negative size"
    report = (await world.analyze())[-1].report
    assert any("noise.level_map" in w and "negative size" in w for w in report.warnings)
