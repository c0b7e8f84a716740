"""The pipeline between healthy backends."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import report_pb2
from serving.item_stream import Item
from tests.coordinator.conftest import Request, World, item, kinds


async def test_a_picture_gets_its_findings_then_the_verdict_then_the_report(world: World) -> None:
    events = await world.analyze(b"some picture", file_name="holiday.jpg")
    assert kinds(events) == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    report = events[-1].report
    assert report.file_name == "holiday.jpg"
    assert report.image.size_bytes == len(b"some picture")
    assert report.verdict == events[-2].verdict_reached.verdict
    assert report.probability == events[-2].verdict_reached.probability
    assert abs(report.posterior.authentic + report.posterior.manipulated + report.posterior.ai_generated - 1) < 1e-9
    assert [result.tool for result in report.tool_results] == [1, 2, 3, 4]
    assert report.request_id
    assert not report.HasField("explanation_error")
    assert not report.warnings


async def test_the_report_carries_sentences_of_both_authors_and_the_model(world: World) -> None:
    report = (await world.analyze())[-1].report
    explanation = report.explanation
    assert explanation.model == "simulated-1b"
    assert explanation.prompt_version == "v1"
    authors = [sentence.author for sentence in explanation.summary]
    assert authors[0] == report_pb2.AUTHOR_RULES
    assert report_pb2.AUTHOR_MODEL in authors
    assert len(explanation.tool_readings) == 4
    assert all(reading.sentences for reading in explanation.tool_readings)
    assert explanation.uncertainties
    kept = sum(
        sentence.author == report_pb2.AUTHOR_MODEL
        for sentences in (
            explanation.summary, explanation.uncertainties, *(r.sentences for r in explanation.tool_readings),
        )
        for sentence in sentences
    )  # fmt: skip
    assert kept + explanation.dropped_sentences_count == explanation.model_sentences_count


async def test_phases_of_all_services_are_in_the_report(world: World) -> None:
    await world.analyze()  # the first picture warms the prefix
    report = (await world.analyze())[-1].report
    phases = {timing.phase: timing.duration.ToNanoseconds() / 1e9 for timing in report.timings}
    assert {"queue", "decode", "fusion", "explanation", "total"} <= phases.keys()
    assert phases["decode"] == 0.007
    assert phases["total"] >= phases["explanation"]
    assert list(phases)[-1] == "total"


async def test_findings_are_forwarded_before_the_other_tools_end(world: World) -> None:
    go_on = asyncio.Event()

    async def wait(_: Item, number: int) -> None:
        if number == 0:
            await go_on.wait()

    world.vision.between_tools = wait
    call = world.stub.AnalyzeStream(_steps(item("a")), timeout=20)
    first = [await call.read(), await call.read()]
    assert [r.event.WhichOneof("event") for r in first] == ["accepted", "tool_result"]
    go_on.set()
    rest = [(await call.read()).event for _ in range(5)]
    assert kinds(rest)[-1] == "report"


async def _steps(requests: list[Request]):  # type: ignore[no-untyped-def]
    for request in requests:
        yield request


async def test_a_large_file_travels_in_chunks_and_arrives_unchanged(world: World) -> None:
    data = os.urandom(5 * 1024 * 1024 + 17)
    digest = hashlib.sha256(data).digest()
    requests = [
        Request(item_id="big", begin=image_pb2.BeginItem(size_bytes=len(data), sha256=digest, file_name="big.jpg"))
    ]
    for offset in range(0, len(data), 700_000):
        chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data[offset : offset + 700_000])
        requests.append(Request(item_id="big", chunk=chunk))
    requests.append(Request(item_id="big", end=image_pb2.EndItem()))
    responses = await world.stream(requests)
    assert responses[-1].event.HasField("report")
    assert world.vision.items[0].data == data
    assert world.vision.items[0].opening.begin.sha256 == digest


async def test_the_prefix_is_warmed_once_for_many_pictures(world: World) -> None:
    for _ in range(3):
        await world.analyze()
    assert world.llm.warmed == 1
    prefix = world.llm.requests[0].messages[0]
    assert all(request.messages[0] == prefix for request in world.llm.requests)


async def test_a_lost_prefix_is_warmed_again(world: World) -> None:
    world.llm.cached_tokens = 0
    await world.analyze()
    await asyncio.sleep(0.05)
    world.llm.cached_tokens = 500
    await world.analyze()
    await world.analyze()
    assert world.llm.warmed == 2


async def test_the_client_can_leave_the_language_model_out(world: World) -> None:
    report = (await world.analyze(skip_llm=True))[-1].report
    assert not world.llm.requests
    assert world.llm.warmed == 0
    assert not report.HasField("explanation_error")
    assert report.explanation.model == ""
    assert len(report.explanation.summary) >= 2


async def test_without_a_language_model_configured_the_rules_write(make_world: Callable[..., World]) -> None:
    world = make_world(llm_address=())
    await world.start(llm=False)
    report = (await world.analyze())[-1].report
    assert not report.HasField("explanation_error")
    assert all(s.author == report_pb2.AUTHOR_RULES for s in report.explanation.summary)


async def test_no_more_pictures_than_set_are_with_the_vision_service(make_world: Callable[..., World]) -> None:
    world = make_world(vision_concurrency=2)

    async def wait(_: Item, number: int) -> None:
        await asyncio.sleep(0.03)

    world.vision.before_tools = wait
    await world.start()
    responses = await world.stream([request for i in range(8) for request in item(f"i{i}")])
    assert sum(r.event.HasField("report") for r in responses) == 8
    assert world.vision.most_concurrent == 2


async def test_the_fused_heat_map_is_handed_on(world: World) -> None:
    report = (await world.analyze())[-1].report
    assert not report.HasField("fused_heat_map")
    assert finding_pb2.HeatMap() == report.fused_heat_map
