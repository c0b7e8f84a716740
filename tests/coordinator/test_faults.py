"""What becomes of a picture when a backend is slow, dead, wrong or gone, or the client is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from maifs.llm.v1 import llm_pb2
from serving.errors import MaifsError, Reason
from serving.item_stream import Item
from serving.status import from_rpc_error, from_status
from tests.coordinator.conftest import Request, World, item, kinds
from tests.coordinator.simulated import unavailable
from tests.coordinator.waiting import eventually, until


def retry_info(status: status_pb2.Status) -> bool:
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


def assert_complete_without_the_model(report: report_pb2.Report, reason: Reason) -> None:
    assert from_status(report.explanation_error).reason is reason
    assert len(report.tool_results) == 4
    assert 2 <= len(report.explanation.summary) <= 4
    sentences = [s for r in report.explanation.tool_readings for s in r.sentences] + list(report.explanation.summary)
    assert all(sentence.author == report_pb2.AUTHOR_RULES for sentence in sentences)
    assert all(reading.sentences for reading in report.explanation.tool_readings)
    assert report.explanation.model_sentences_count == 0


class TestLanguageModel:
    async def test_down(self, make_world: Callable[..., World]) -> None:
        world = make_world()
        await world.start(llm=False)
        report = (await world.analyze())[-1].report
        assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)

    async def test_slow(self, make_world: Callable[..., World]) -> None:
        world = make_world(llm_timeout_s=0.3)
        world.llm.before_finish = lambda: asyncio.sleep(30)
        await world.start()
        report = (await world.analyze())[-1].report
        assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)
        await until(lambda: world.llm.cancelled == 1)

    async def test_the_client_sets_the_wait(self, world: World) -> None:
        world.llm.before_finish = lambda: asyncio.sleep(30)
        report = (await world.analyze(llm_timeout_seconds=0.2))[-1].report
        assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)

    async def test_still_loading_the_report_waits_for_it_when_asked_to(self, world: World) -> None:
        await world.set_llm_health(serving=False)
        waiting = asyncio.ensure_future(world.analyze(llm_wait_seconds=20))
        await until(lambda: len(world.vision.ended) == 1)
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await world.set_llm_health(serving=True)
        report = (await waiting)[-1].report
        assert not report.HasField("explanation_error")
        assert report.explanation.model

    async def test_still_loading_when_the_wait_is_over(self, world: World) -> None:
        await world.set_llm_health(serving=False)
        report = (await world.analyze(llm_wait_seconds=0.5))[-1].report
        assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)

    async def test_slow_under_a_deadline_of_the_client_the_report_still_comes(self, world: World) -> None:
        world.llm.before_finish = lambda: asyncio.sleep(30)
        report = (await world.analyze(timeout_s=1.5))[-1].report
        assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)

    async def test_dead_in_mid_answer(self, world: World) -> None:
        async def die() -> None:
            world.killing = asyncio.ensure_future(world.stop("llm"))
            await asyncio.sleep(30)

        world.llm.before_finish = die
        report = (await world.analyze())[-1].report
        assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)

    async def test_back_after_a_restart_it_is_used_and_warmed_again(self, world: World) -> None:
        await world.analyze()
        await world.stop("llm")
        report = (await world.analyze())[-1].report
        assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)
        await world.start_llm()

        async def works() -> bool:
            return not (await world.analyze())[-1].report.HasField("explanation_error")

        await eventually(works)
        await (
            world.analyze()
        )  # the picture before may have been explained by a service that came back after its warming
        await until(lambda: world.llm.warmed == 2)

    @pytest.mark.parametrize(
        "answer",
        ["", "I am sorry, I cannot.", "{", "[]", '{"summary": "text"}', '{"a": 1}', "null", '"\\u0000"', "[" * 100_000],
    )
    async def test_rubbish(self, world: World, answer: str) -> None:
        world.llm.answer = answer
        report = (await world.analyze())[-1].report
        assert_complete_without_the_model(report, Reason.LLM_BAD_ANSWER)

    async def test_an_answer_without_a_sound_sentence_leaves_the_rules_text(self, world: World) -> None:
        world.llm.answer = json.dumps(
            {"summary": [{"finding": "frequency.foreign_grid", "text": "This picture is certainly a fake."}]}
        )
        report = (await world.analyze())[-1].report
        assert not report.HasField("explanation_error")
        assert report.explanation.model_sentences_count == report.explanation.dropped_sentences_count == 1
        assert all(s.author == report_pb2.AUTHOR_RULES for s in report.explanation.summary)

    async def test_an_answer_that_was_cut_off_keeps_its_complete_part(self, world: World) -> None:
        world.llm.answer = world.llm.answer[: world.llm.answer.index('"watermark"') + 30]
        world.llm.finish_reason = llm_pb2.FINISH_REASON_LENGTH
        report = (await world.analyze())[-1].report
        assert not report.HasField("explanation_error")
        assert report.explanation.model_sentences_count == 3

    async def test_engine_errors_are_named(self, world: World) -> None:
        world.llm.fail = MaifsError(Reason.QUEUE_FULL, "full", retry_after_s=1)
        assert_complete_without_the_model((await world.analyze())[-1].report, Reason.QUEUE_FULL)

    async def test_a_prompt_too_long_is_tried_again_without_the_tests_that_found_nothing(self, world: World) -> None:
        world.llm.fail = MaifsError(Reason.PROMPT_TOO_LONG, "too long")
        assert_complete_without_the_model((await world.analyze())[-1].report, Reason.PROMPT_TOO_LONG)
        full, brief = (request.messages[-1].content for request in world.llm.requests)
        assert "noise.level_map" in full
        assert "noise.level_map" not in brief
        assert "frequency.foreign_grid" in brief

    async def test_without_prefix_caching_it_is_asked_all_the_same(self, world: World) -> None:
        world.llm.warm_fail = MaifsError(Reason.PREFIX_CACHING_OFF, "off")
        world.llm.cached_tokens = 0
        for _ in range(3):
            assert not (await world.analyze())[-1].report.HasField("explanation_error")
        assert world.llm.warmed == 1


class TestVision:
    async def test_down(self, make_world: Callable[..., World]) -> None:
        world = make_world()
        await world.start(vision=False)
        events = await world.analyze()
        assert kinds(events) == ["accepted", "error"]
        assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
        assert retry_info(events[-1].error)

    async def test_found_when_it_comes(self, make_world: Callable[..., World]) -> None:
        world = make_world()
        await world.start(vision=False)
        await world.analyze()
        await world.start_vision()

        async def works() -> bool:
            return kinds(await world.analyze())[-1] == "report"

        await eventually(works)

    async def test_unavailable_once_before_any_finding_is_tried_again(self, world: World) -> None:
        async def first_fails(_: Item, attempt: int) -> None:
            if attempt == 1:
                raise unavailable()

        world.vision.before_tools = first_fails
        events = await world.analyze()
        assert kinds(events) == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
        assert len(world.vision.items) == 2

    async def test_unavailable_twice_is_the_items_error(self, world: World) -> None:
        async def fails(_: Item, attempt: int) -> None:
            raise unavailable()

        world.vision.before_tools = fails
        events = await world.analyze()
        assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
        assert len(world.vision.items) == 2

    async def test_unavailable_after_a_finding_is_not_tried_again(self, world: World) -> None:
        async def fails(_: Item, number: int) -> None:
            raise unavailable()

        world.vision.between_tools = fails
        events = await world.analyze()
        assert kinds(events) == ["accepted", "tool_result", "error"]
        assert retry_info(events[-1].error)
        assert len(world.vision.items) == 1

    async def test_killed_in_the_middle(self, world: World) -> None:
        async def die(_: Item, attempt: int) -> None:
            world.killing = asyncio.ensure_future(world.stop("vision"))
            await asyncio.sleep(30)

        world.vision.before_tools = die
        events = await world.analyze()
        assert from_status(events[-1].error).reason is Reason.BACKEND_UNAVAILABLE
        assert retry_info(events[-1].error)

    async def test_the_pictures_own_fault_is_handed_on(self, world: World) -> None:
        async def refuse(_: Item, attempt: int) -> None:
            raise MaifsError(Reason.CORRUPT_IMAGE, "The JPEG ends after 10 bytes.", "Send it again.")

        world.vision.before_tools = refuse
        error = from_status((await world.analyze())[-1].error)
        assert (error.reason, error.message, error.advice) == (
            Reason.CORRUPT_IMAGE, "The JPEG ends after 10 bytes.", "Send it again.",
        )  # fmt: skip

    async def test_too_slow(self, make_world: Callable[..., World]) -> None:
        world = make_world(item_timeout_s=0.3)

        async def hang(_: Item, attempt: int) -> None:
            await asyncio.sleep(30)

        world.vision.before_tools = hang
        await world.start()
        events = await world.analyze()
        assert from_status(events[-1].error).reason is Reason.DEADLINE_EXCEEDED
        await until(lambda: world.vision.ended == ["cancelled"])

    async def test_one_tool_that_failed_is_named_and_the_others_count(self, world: World) -> None:
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

    async def test_one_test_that_failed_is_named(self, world: World) -> None:
        finding = world.vision.results[1].findings[0]
        finding.outcome = finding_pb2.OUTCOME_FAILED
        finding.reason = "ValueError: negative size"
        report = (await world.analyze())[-1].report
        assert any("noise.level_map" in w and "negative size" in w for w in report.warnings)


class TestClient:
    async def test_that_hangs_up_ends_the_work_at_both_backends(self, world: World) -> None:
        async def hang() -> None:
            await asyncio.sleep(30)

        world.llm.before_finish = hang
        call = world.stub.Analyze(_request(), timeout=20)
        await until(lambda: bool(world.llm.requests))
        call.cancel()
        await until(lambda: world.llm.cancelled == 1)

    async def test_that_hangs_up_during_the_tools_ends_them(self, world: World) -> None:
        async def hang(_: Item, attempt: int) -> None:
            await asyncio.sleep(30)

        world.vision.before_tools = hang
        call = world.stub.Analyze(_request(), timeout=20)
        await until(lambda: bool(world.vision.items))
        call.cancel()
        await until(lambda: world.vision.ended == ["cancelled"])
        assert not world.llm.requests

    async def test_whose_deadline_passes_ends_the_work(self, world: World) -> None:
        async def hang(_: Item, attempt: int) -> None:
            await asyncio.sleep(30)

        world.vision.before_tools = hang
        with pytest.raises(grpc.aio.AioRpcError):
            await world.analyze(timeout_s=0.5)
        await until(lambda: world.vision.ended == ["cancelled"])

    async def test_cancels_one_item_and_its_neighbour_goes_on(self, world: World) -> None:
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

    async def test_cancels_an_item_that_the_language_model_is_at(self, world: World) -> None:
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

    async def test_that_hangs_up_during_a_second_look_ends_all_of_it(self, make_world: Callable[..., World]) -> None:
        world = make_world(second_look=True)
        world.llm.before_finish = lambda: asyncio.sleep(30)
        await world.start()
        call = world.stub.Analyze(_request(), timeout=20)
        await until(lambda: len(world.llm.requests) == 3)  # the explanation and a reading for each side
        call.cancel()
        await until(lambda: world.llm.cancelled == 3)

    async def test_the_deadline_reaches_both_backends(self, world: World) -> None:
        await world.analyze(timeout_s=6)
        assert world.vision.deadlines
        assert world.llm.deadlines
        for left in (*world.vision.deadlines, *world.llm.deadlines):
            assert left is not None
            assert left <= 6.5  # gRPC rounds up on the way

    async def test_without_a_deadline_the_backends_have_those_of_the_settings(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(item_timeout_s=70, llm_timeout_s=50)
        await world.start()
        await world.stream(item("a"), timeout_s=None)
        (vision_left,), (llm_left,) = world.vision.deadlines, world.llm.deadlines
        assert 60 < (vision_left or 0) < 71
        assert 40 < (llm_left or 0) < 51

    async def test_knows_how_many_items_it_may_begin(self, make_world: Callable[..., World]) -> None:
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

    async def test_that_does_not_read_is_stopped_by_flow_control(self, make_world: Callable[..., World]) -> None:
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

    async def test_that_does_not_read_keeps_no_place_at_the_vision_service(
        self, make_world: Callable[..., World]
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
    async def test_an_impossible_wait_is_refused(self, world: World, seconds: float) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.analyze(llm_timeout_seconds=seconds)
        assert from_rpc_error(caught.value, "c").reason is Reason.INVALID_REQUEST

    async def test_more_bytes_than_the_coordinator_holds_are_refused_with_a_time_to_wait(
        self, make_world: Callable[..., World]
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
        assert retry_info(ends["two"].error)


def _request() -> coordinator_pb2.AnalyzeRequest:
    return coordinator_pb2.AnalyzeRequest(image=image_pb2.Image(data=b"picture", file_name="a.jpg"))
