"""What becomes of a picture when the language-model service is slow, dead, wrong or gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from maifs.coordinator.v1 import report_pb2
from maifs.llm.v1 import llm_pb2
from serving.errors import MaifsError, Reason
from serving.status import from_status
from tests.coordinator.conftest import World
from tests.coordinator.waiting import eventually, until


def assert_complete_without_the_model(report: report_pb2.Report, reason: Reason) -> None:
    assert from_status(report.explanation_error).reason is reason
    assert len(report.tool_results) == 4
    assert 2 <= len(report.explanation.summary) <= 4
    sentences = [s for r in report.explanation.tool_readings for s in r.sentences] + list(report.explanation.summary)
    assert all(sentence.author == report_pb2.AUTHOR_RULES for sentence in sentences)
    assert all(reading.sentences for reading in report.explanation.tool_readings)
    assert report.explanation.model_sentences_count == 0


async def test_down(make_world: Callable[..., World]) -> None:
    world = make_world()
    await world.start(llm=False)
    report = (await world.analyze())[-1].report
    assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)


async def test_slow(make_world: Callable[..., World]) -> None:
    world = make_world(llm_timeout_s=1)
    world.llm.before_finish = lambda: asyncio.sleep(30)
    await world.start()
    report = (await world.analyze())[-1].report
    assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)
    await until(lambda: world.llm.cancelled == 1)


async def test_the_client_sets_the_wait(world: World) -> None:
    world.llm.before_finish = lambda: asyncio.sleep(30)
    report = (await world.analyze(llm_timeout_seconds=1))[-1].report
    assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)


async def test_still_loading_the_report_waits_for_it_when_asked_to(world: World) -> None:
    await world.set_llm_health(serving=False)
    waiting = asyncio.ensure_future(world.analyze(llm_wait_seconds=20))
    await until(lambda: len(world.vision.ended) == 1)
    await asyncio.sleep(0.5)
    assert not waiting.done()
    await world.set_llm_health(serving=True)
    report = (await waiting)[-1].report
    assert not report.HasField("explanation_error")
    assert report.explanation.model


async def test_still_loading_when_the_wait_is_over(world: World) -> None:
    await world.set_llm_health(serving=False)
    report = (await world.analyze(llm_wait_seconds=0.5))[-1].report
    assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)


async def test_slow_under_a_deadline_of_the_client_the_report_still_comes(world: World) -> None:
    world.llm.before_finish = lambda: asyncio.sleep(30)
    report = (await world.analyze(timeout_s=3))[-1].report
    assert_complete_without_the_model(report, Reason.DEADLINE_EXCEEDED)


async def test_dead_in_mid_answer(world: World) -> None:
    async def die() -> None:
        world.killing = asyncio.ensure_future(world.stop("llm"))
        await asyncio.sleep(30)

    world.llm.before_finish = die
    report = (await world.analyze())[-1].report
    assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)


async def test_back_after_a_restart_it_is_used_and_warmed_again(world: World) -> None:
    await world.analyze()
    await world.stop("llm")
    report = (await world.analyze())[-1].report
    assert_complete_without_the_model(report, Reason.BACKEND_UNAVAILABLE)
    await world.start_llm()

    async def works() -> bool:
        return not (await world.analyze())[-1].report.HasField("explanation_error")

    await eventually(works)
    # The picture before may have been explained by a service that came back after its warming.
    await world.analyze()
    await until(lambda: world.llm.warmed == 2)


@pytest.mark.parametrize(
    "answer",
    ["", "I am sorry, I cannot.", "{", "[]", '{"summary": "text"}', '{"a": 1}', "null", '"\\u0000"', "[" * 100_000],
)
async def test_rubbish(world: World, answer: str) -> None:
    world.llm.answer = answer
    report = (await world.analyze())[-1].report
    assert_complete_without_the_model(report, Reason.LLM_BAD_ANSWER)


async def test_an_answer_without_a_sound_sentence_leaves_the_rules_text(world: World) -> None:
    world.llm.answer = json.dumps(
        {"summary": [{"finding": "frequency.foreign_grid", "text": "This picture is certainly a fake."}]}
    )
    report = (await world.analyze())[-1].report
    assert not report.HasField("explanation_error")
    assert report.explanation.model_sentences_count == report.explanation.dropped_sentences_count == 1
    assert all(s.author == report_pb2.AUTHOR_RULES for s in report.explanation.summary)


async def test_an_answer_that_was_cut_off_keeps_its_complete_part(world: World) -> None:
    world.llm.answer = world.llm.answer[: world.llm.answer.index('"watermark"') + 30]
    world.llm.finish_reason = llm_pb2.FINISH_REASON_LENGTH
    report = (await world.analyze())[-1].report
    assert not report.HasField("explanation_error")
    assert report.explanation.model_sentences_count == 3


async def test_engine_errors_are_named(world: World) -> None:
    world.llm.fail = MaifsError(Reason.QUEUE_FULL, "full", retry_after_s=1)
    assert_complete_without_the_model((await world.analyze())[-1].report, Reason.QUEUE_FULL)


async def test_a_prompt_too_long_is_tried_again_without_the_tests_that_found_nothing(world: World) -> None:
    world.llm.fail = MaifsError(Reason.PROMPT_TOO_LONG, "too long")
    assert_complete_without_the_model((await world.analyze())[-1].report, Reason.PROMPT_TOO_LONG)
    full, brief = (request.messages[-1].content for request in world.llm.requests)
    assert "noise.level_map" in full
    assert "noise.level_map" not in brief
    assert "frequency.foreign_grid" in brief


async def test_without_prefix_caching_it_is_asked_all_the_same(world: World) -> None:
    world.llm.warm_fail = MaifsError(Reason.PREFIX_CACHING_OFF, "off")
    world.llm.cached_tokens = 0
    for _ in range(3):
        assert not (await world.analyze())[-1].report.HasField("explanation_error")
    assert world.llm.warmed == 1
