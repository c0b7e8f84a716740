"""A state machine over begin, chunk, end and cancel: exactly one terminal event per accepted item in every order."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from maifs.common.v1 import image_pb2
from maifs.vision.v1 import vision_pb2
from serving.errors import MaifsError, Reason
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream
from serving.status import from_status
from vision_service.config import VisionConfig
from vision_service.limits import DecodeLimits
from vision_service.servicer import VisionServicer

Request = vision_pb2.AnalyzeStreamRequest
Event = tuple[str, str, str]
"""Item, kind ("accepted", "finding", "result", "error"), reason."""
T = TypeVar("T")

IDS = st.sampled_from("abc")
SIZES = st.integers(0, 6)
REFUSALS = {Reason.UNKNOWN_ITEM, Reason.DUPLICATE_ITEM}
"""Errors of single messages, which may come beside an item's own end."""


class StreamMachine(RuleBasedStateMachine):
    """Sends steps in any order and reads what comes back while the work of items goes on or is held up."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self.gate = asyncio.Event()
        self.budget = ByteBudget(12)
        self.events: list[Event] = []
        self.sent: Counter[str] = Counter()
        self.reading = self.loop.create_task(self.read())

    async def read(self) -> None:
        async for event in self.conversation(self.sending()):
            self.events.append(event)

    def conversation(self, requests: AsyncIterator[Request]) -> AsyncIterator[Event]:
        """The code under test, against a fast stand-in for the work."""
        handlers: ItemHandlers[Event] = ItemHandlers(
            accepted=lambda item_id, _: (item_id, "accepted", ""),
            failed=lambda item_id, error: (item_id, "error", error.reason),
            process=self.process,
            is_terminal=lambda event: event[1] == "result",
            queue_position=lambda: 0,
        )
        return ItemStream(ItemLimits(6, 2), self.budget, handlers).run(requests)

    async def process(self, item: Item) -> AsyncGenerator[Event, None]:
        await self.work(item.data)
        yield item.item_id, "finding", ""
        yield item.item_id, "result", ""

    async def work(self, data: bytes) -> None:
        await self.gate.wait()
        await asyncio.sleep(0)
        if data.startswith(b"b"):
            raise MaifsError(Reason.CORRUPT_IMAGE, "cut short")
        if data.startswith(b"c"):
            raise RuntimeError("a bug")

    async def sending(self) -> AsyncIterator[Request]:
        while (request := await self.requests.get()) is not None:
            yield request

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def send(self, item_id: str, **step: Any) -> None:
        self.sent[item_id] += 1
        self.requests.put_nowait(Request(item_id=item_id, **step))

    @rule(item_id=IDS, size=SIZES, data=st.text("abc", max_size=6))
    def begin(self, item_id: str, size: int, data: str) -> None:
        self.send(item_id, begin=image_pb2.BeginItem(size_bytes=size, data=data.encode()))

    @rule(item_id=IDS, data=st.text("abc", min_size=1, max_size=6))
    def begin_whole(self, item_id: str, data: str) -> None:
        self.send(item_id, begin=image_pb2.BeginItem(size_bytes=len(data), data=data.encode()))

    @rule(item_id=IDS, offset=SIZES, data=st.binary(max_size=4))
    def chunk(self, item_id: str, offset: int, data: bytes) -> None:
        self.send(item_id, chunk=image_pb2.ItemChunk(offset_bytes=offset, data=data))

    @rule(item_id=IDS)
    def end(self, item_id: str) -> None:
        self.send(item_id, end=image_pb2.EndItem())

    @rule(item_id=IDS)
    def cancel(self, item_id: str) -> None:
        self.send(item_id, cancel=image_pb2.CancelItem())

    @rule(item_id=IDS)
    def no_step(self, item_id: str) -> None:
        self.send(item_id)

    @rule(turns=st.integers(1, 20))
    def let_time_pass(self, turns: int) -> None:
        async def pass_turns() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(pass_turns())

    @rule()
    def hold_work_up(self) -> None:
        self.gate.clear()

    @rule()
    def let_work_go(self) -> None:
        self.gate.set()

    @invariant()
    def ends_are_not_more_than_items(self) -> None:
        kinds = Counter((item_id, kind) for item_id, kind, _ in self.events)
        own = Counter(name for name, kind, why in self.events if kind == "error" and why not in REFUSALS)
        for item_id in "abc":
            accepted, results = kinds[item_id, "accepted"], kinds[item_id, "result"]
            assert accepted <= 1, self.events
            assert results <= accepted, self.events
            if accepted:
                self.nothing_of_its_own_after_the_end(item_id)
            assert own[item_id] <= self.sent[item_id], self.events
        assert 0 <= self.budget.held_bytes <= self.budget.limit_bytes

    def nothing_of_its_own_after_the_end(self, item_id: str) -> None:
        kinds = [kind for name, kind, _ in self.events if name == item_id]
        since = kinds[kinds.index("accepted") :]
        ends = [index for index, kind in enumerate(since) if kind in {"result", "error"}]
        if ends:
            later = since[ends[0] + 1 :]
            assert "finding" not in later, self.events
            assert "result" not in later, self.events

    def teardown(self) -> None:
        self.gate.set()
        self.requests.put_nowait(None)
        self.run(asyncio.wait_for(self.reading, 60))
        self.ends_are_not_more_than_items()
        for item_id in {name for name, kind, _ in self.events if kind == "accepted"}:
            kinds = [kind for name, kind, _ in self.events if name == item_id]
            since = kinds[kinds.index("accepted") :]
            assert {"result", "error"} & set(since), self.events
        assert self.budget.held_bytes == 0
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


class _Analyzer:
    """Stands in for the analyzer: as the machine's work says, and without a result worth converting."""

    def __init__(self, work: Callable[[bytes], Coroutine[Any, Any, None]]) -> None:
        self.waiting = 0
        self.device = torch.device("cpu")
        self.tools: dict[str, Any] = {}
        self._work = work

    async def analyze(self, data: bytes, names: object = ()) -> AsyncGenerator[Any, None]:
        await self._work(data)
        if data:  # always: an item has bytes
            raise MaifsError(Reason.OUT_OF_MEMORY, "the stand-in never has a result")
        yield None


class VisionMachine(StreamMachine):
    """The same against the real servicer of the vision service."""

    def conversation(self, requests: AsyncIterator[Request]) -> AsyncIterator[Event]:
        config = VisionConfig(
            limits=DecodeLimits(max_image_bytes=6), max_open_items_per_stream=2, max_held_bytes=self.budget.limit_bytes
        )
        servicer = make_servicer(_Analyzer(self.work), config)
        self.budget = servicer._budget
        return self.translated(servicer.AnalyzeStream(requests, None))

    async def translated(self, responses: AsyncIterator[vision_pb2.AnalyzeStreamResponse]) -> AsyncIterator[Event]:
        async for response in responses:
            kind = response.WhichOneof("event")
            yield response.item_id, str(kind), from_status(response.error).reason if kind == "error" else ""


def make_servicer(analyzer: Any, config: VisionConfig) -> VisionServicer:
    from vision_service.metrics import VisionMetrics

    return VisionServicer(analyzer, config, VisionMetrics())


TestItemStream = StreamMachine.TestCase
TestItemStream.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestVisionServicer = VisionMachine.TestCase
TestVisionServicer.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
