"""Exactly one terminal event for each item, whatever the order of steps."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2
from serving.errors import Reason
from serving.item_stream import Item
from serving.status import from_status
from tests.coordinator.conftest import Request, World

DATA = bytes(range(200))


def begin(item_id: str, **fields: Any) -> Request:
    return Request(item_id=item_id, begin=image_pb2.BeginItem(size_bytes=len(DATA), **fields))


def chunk(item_id: str, offset: int, data: bytes) -> Request:
    return Request(item_id=item_id, chunk=image_pb2.ItemChunk(offset_bytes=offset, data=data))


def end(item_id: str) -> Request:
    return Request(item_id=item_id, end=image_pb2.EndItem())


def cancel(item_id: str) -> Request:
    return Request(item_id=item_id, cancel=image_pb2.CancelItem())


def _good(item_id: str) -> list[Request]:
    return [
        begin(item_id, data=DATA[:50]),
        chunk(item_id, 50, DATA[50:120]),
        chunk(item_id, 120, DATA[120:]),
        end(item_id),
    ]


SCRIPTS: dict[str, Callable[[str], list[Request]]] = {
    "good": _good,
    "inline": lambda i: [begin(i, data=DATA, sha256=hashlib.sha256(DATA).digest()), end(i)],
    "cancelled": lambda i: [begin(i, data=DATA), cancel(i)],
    "cancelled after end": lambda i: [begin(i, data=DATA), end(i), cancel(i)],
    "chunk after end": lambda i: [begin(i, data=DATA), end(i), chunk(i, 200, b"x")],
    "wrong digest": lambda i: [begin(i, data=DATA, sha256=bytes(32)), end(i)],
    "short digest": lambda i: [begin(i, data=DATA, sha256=b"abc"), end(i)],
    "wrong offset": lambda i: [begin(i, data=DATA[:50]), chunk(i, 60, DATA[60:]), end(i)],
    "too short": lambda i: [begin(i, data=DATA[:50]), end(i)],
    "too long": lambda i: [begin(i, data=DATA), chunk(i, 200, b"x"), end(i)],
    "begun twice": lambda i: [begin(i, data=DATA), begin(i, data=DATA), end(i)],
    "never ended": lambda i: [begin(i, data=DATA)],
    "no begin": lambda i: [chunk(i, 0, DATA), end(i)],
    "empty": lambda i: [Request(item_id=i, begin=image_pb2.BeginItem(size_bytes=0)), end(i)],
}
SOUND = {"good", "inline"}


def terminals(responses: list[coordinator_pb2.AnalyzeStreamResponse]) -> Counter[str]:
    return Counter(r.item_id for r in responses if r.event.WhichOneof("event") in {"report", "error"})


@pytest.mark.parametrize("seed", range(6))
async def test_interleaved_items_of_all_kinds_end_once(make_world: Callable[..., World], seed: int) -> None:
    world = make_world(llm_address=())
    generator = random.Random(seed)

    async def dawdle(_: Item, attempt: int) -> None:
        await asyncio.sleep(generator.random() * 0.01)

    world.vision.before_tools = dawdle
    await world.start(llm=False)
    lanes = {f"{name} {copy}": make(f"{name} {copy}") for name, make in SCRIPTS.items() for copy in range(2)}
    requests: list[Request] = []
    while lanes:
        item_id = generator.choice(sorted(lanes))
        requests.append(lanes[item_id].pop(0))
        if not lanes[item_id]:
            del lanes[item_id]
    responses = await world.stream(requests)
    ends = terminals(responses)
    expected = {f"{name} {copy}" for name in SCRIPTS for copy in range(2)}
    assert ends == Counter(expected)
    for name in SOUND:
        assert any(r.event.HasField("report") for r in responses if r.item_id == f"{name} 0")
    status = await world.stub.GetStatus(coordinator_pb2.GetStatusRequest())
    assert status.open_items_count == 0
    assert status.held_bytes == 0


async def test_nothing_comes_after_a_terminal_event(world: World) -> None:
    responses = await world.stream([r for i in range(4) for r in _good(f"i{i}")])
    ended: set[str] = set()
    for response in responses:
        assert response.item_id not in ended
        if response.event.WhichOneof("event") in {"report", "error"}:
            ended.add(response.item_id)
    assert len(ended) == 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("chunk after end", Reason.CHUNK_AFTER_END),
        ("wrong digest", Reason.SHA256_MISMATCH),
        ("short digest", Reason.INVALID_REQUEST),
        ("wrong offset", Reason.CHUNK_OFFSET),
        ("too short", Reason.SIZE_MISMATCH),
        ("begun twice", Reason.DUPLICATE_ITEM),
        ("never ended", Reason.ITEM_INCOMPLETE),
        ("empty", Reason.EMPTY_FILE),
    ],
)
async def test_each_fault_has_its_reason(world: World, script: str, reason: Reason) -> None:
    async def wait(_: Item, attempt: int) -> None:
        await asyncio.sleep(0.2)

    world.vision.before_tools = wait
    responses = await world.stream([*SCRIPTS[script]("x"), *_good("neighbour")])
    assert terminals(responses) == Counter(["x", "neighbour"])
    error = next(r.event.error for r in responses if r.item_id == "x" and r.event.HasField("error"))
    assert from_status(error).reason is reason
    assert any(r.item_id == "neighbour" and r.event.HasField("report") for r in responses)
