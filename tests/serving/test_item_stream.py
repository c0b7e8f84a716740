"""The protocol of begin, chunk, end, cancel: every item that is accepted gets exactly one terminal event."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maifs.common.v1 import image_pb2
from maifs.vision.v1 import vision_pb2
from serving.encoded import Encoded
from serving.errors import MaifsError, Reason
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream, check_digest

Request = vision_pb2.AnalyzeStreamRequest
Event = tuple[str, str, Any]


def begin(item: str, size: int, data: bytes = b"", sha256: bytes = b"") -> Request:
    return Request(item_id=item, begin=image_pb2.BeginItem(size_bytes=size, data=data, sha256=sha256))


def chunk(item: str, offset: int, data: bytes) -> Request:
    return Request(item_id=item, chunk=image_pb2.ItemChunk(offset_bytes=offset, data=data))


def end(item: str) -> Request:
    return Request(item_id=item, end=image_pb2.EndItem())


def cancel(item: str) -> Request:
    return Request(item_id=item, cancel=image_pb2.CancelItem())


async def echo(item: Item) -> AsyncGenerator[Event, None]:
    await asyncio.sleep(0)
    yield item.item_id, "finding", len(item.data)
    await asyncio.sleep(0)
    if item.data == b"boom":
        raise RuntimeError("a bug")
    yield item.item_id, "result", item.data


async def play(
    requests: list[Request | float],
    *,
    process: Any = echo,
    limits: ItemLimits | None = None,
    budget: ByteBudget | None = None,
) -> list[Event]:
    """Sends requests (a number is a pause in seconds) and collects the events."""

    async def sending() -> AsyncIterator[Request]:
        for request in requests:
            if isinstance(request, Request):
                yield request
            else:
                await asyncio.sleep(request)

    handlers: ItemHandlers[Event] = ItemHandlers(
        accepted=lambda item, accepted: (item, "accepted", accepted.queue_position_count),
        failed=lambda item, error: (item, "error", error.reason),
        process=process,
        is_terminal=lambda event: event[1] in {"result", "error"},
        queue_position=lambda: 0,
    )
    stream = ItemStream(limits or ItemLimits(1000, 8), budget or ByteBudget(10_000), handlers)
    return [event async for event in stream.run(sending())]


def terminal(events: list[Event]) -> dict[str, Any]:
    ends = [(item, value) for item, kind, value in events if kind in {"result", "error"}]
    assert len(ends) == len(dict(ends)), f"two terminal events for one item: {ends}"
    return dict(ends)


async def test_interleaved_items_each_get_their_own_bytes() -> None:
    events = await play(
        [begin("a", 4), begin("b", 2, b"BB"), chunk("a", 0, b"AA"), end("b"), chunk("a", 2, b"aa"), end("a")]
    )
    assert terminal(events) == {"a": b"AAaa", "b": b"BB"}
    assert [kind for item, kind, _ in events if item == "a"] == ["accepted", "finding", "result"]


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ([begin("x", 0)], Reason.EMPTY_FILE),
        ([begin("x", 1001)], Reason.IMAGE_TOO_LARGE),
        ([begin("x", 2, b"abc")], Reason.SIZE_MISMATCH),
        ([begin("x", 3), chunk("x", 0, b"ab"), end("x")], Reason.SIZE_MISMATCH),
        ([begin("x", 3), chunk("x", 1, b"ab"), end("x")], Reason.CHUNK_OFFSET),
        ([begin("x", 3, b"abc", b"\1" * 32), end("x")], Reason.SHA256_MISMATCH),
        ([begin("x", 3, b"abc", b"short"), end("x")], Reason.INVALID_REQUEST),
        ([begin("x", 3, b"abc"), cancel("x"), end("x")], Reason.CANCELLED),
        ([begin("x", 3, b"abc")], Reason.ITEM_INCOMPLETE),
        ([chunk("x", 0, b"abc")], Reason.UNKNOWN_ITEM),
        ([end("x")], Reason.UNKNOWN_ITEM),
        ([begin("x", 3, b"abc"), begin("x", 3, b"abc"), end("x")], Reason.DUPLICATE_ITEM),
        ([Request(item_id="x")], Reason.UNKNOWN_ITEM),
        ([begin("x", 4, b"boom"), end("x")], Reason.INTERNAL),
    ],
)
async def test_a_faulty_item_gets_its_own_error_and_its_neighbour_a_result(steps: list[Any], reason: Reason) -> None:
    events = await play([begin("good", 2, b"ok"), *steps, end("good")])
    assert terminal(events) == {"x": reason, "good": b"ok"}


async def test_a_chunk_after_end_gives_the_item_up() -> None:
    async def slow(item: Item) -> AsyncGenerator[Event, None]:
        await asyncio.sleep(0.05 if item.item_id == "x" else 0)
        yield item.item_id, "result", b""

    events = await play(
        [begin("x", 1, b"a"), end("x"), 0.01, chunk("x", 1, b"b"), begin("y", 1, b"c"), end("y")], process=slow
    )
    assert terminal(events) == {"x": Reason.CHUNK_AFTER_END, "y": b""}


async def test_an_item_id_of_wrong_length_is_refused() -> None:
    assert terminal(await play([begin("", 1)])) == {"": Reason.INVALID_REQUEST}
    assert terminal(await play([begin("i" * 129, 1)])) == {"i" * 129: Reason.INVALID_REQUEST}


async def test_more_open_items_than_allowed_are_refused() -> None:
    events = await play(
        [begin("a", 1), begin("b", 1), begin("c", 1), cancel("a"), cancel("b")], limits=ItemLimits(9, 2)
    )
    assert terminal(events)["c"] is Reason.TOO_MANY_OPEN_ITEMS


async def test_the_budget_refuses_at_once_and_is_given_back() -> None:
    budget = ByteBudget(5)
    events = await play(
        [begin("a", 3, b"aaa"), begin("b", 3), end("a"), 0.02, begin("c", 3, b"ccc"), end("c")], budget=budget
    )
    assert terminal(events) == {"a": b"aaa", "b": Reason.QUEUE_FULL, "c": b"ccc"}
    assert budget.held_bytes == 0


async def test_a_reader_that_stops_holds_up_the_work_not_the_memory() -> None:
    made = 0

    async def chatty(item: Item) -> AsyncGenerator[Event, None]:
        nonlocal made
        for number in range(1000):
            made += 1
            yield item.item_id, "finding", number
        yield item.item_id, "result", b""

    async def one() -> AsyncIterator[Request]:
        yield begin("a", 1, b"a")
        yield end("a")
        await asyncio.sleep(10)

    handlers: ItemHandlers[Event] = ItemHandlers(
        accepted=lambda item, accepted: (item, "accepted", accepted.queue_position_count),
        failed=lambda item, error: (item, "error", error),
        process=chatty,
        is_terminal=lambda event: event[1] == "result",
        queue_position=lambda: 0,
    )
    budget = ByteBudget(100)
    stream = ItemStream(ItemLimits(10, 1), budget, handlers).run(one())
    assert (await anext(stream))[1] == "accepted"
    await asyncio.sleep(0.05)
    assert made < 100
    await stream.aclose()
    assert budget.held_bytes == 0


STEP = st.one_of(
    st.builds(begin, st.sampled_from("abc"), st.integers(0, 4), st.binary(max_size=4)),
    st.builds(chunk, st.sampled_from("abc"), st.integers(0, 4), st.binary(max_size=3)),
    st.builds(end, st.sampled_from("abc")),
    st.builds(cancel, st.sampled_from("abc")),
    st.just(0.0),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEP, max_size=14))
def test_whatever_is_sent_an_accepted_item_ends_exactly_once(steps: list[Request | float]) -> None:
    budget = ByteBudget(10)
    events = asyncio.run(play(steps, budget=budget, limits=ItemLimits(4, 2)))
    assert budget.held_bytes == 0
    begun = Counter(s.item_id for s in steps if isinstance(s, Request) and s.WhichOneof("step") == "begin")
    for item in "abc":
        kinds = [kind for name, kind, _ in events if name == item]
        assert kinds.count("accepted") <= 1
        assert kinds.count("result") <= kinds.count("accepted")
        # One for the item itself; every refused repetition of its id, and every step before `begin`, adds an error.
        ends = kinds.count("result") + kinds.count("error")
        assert ends >= (1 if begun[item] else 0)
        if kinds.count("accepted"):
            assert "result" not in kinds[kinds.index("accepted") :][:1]


def test_the_digest_is_checked_only_when_announced() -> None:
    check_digest(Encoded(b"abc"), b"")
    check_digest(Encoded(b"abc"), hashlib.sha256(b"abc").digest())
    with pytest.raises(MaifsError, match="SHA-256"):
        check_digest(Encoded(b"abd"), hashlib.sha256(b"abc").digest())
