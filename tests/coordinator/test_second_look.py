"""Where tools disagree: who is found to disagree, what experts may say, and what comes of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from coordinator.backends.backend import Health
from coordinator.case import Case
from coordinator.explanation.disagreement import find_disagreement
from coordinator.explanation.second_look import PROMPT_VERSION, prompts
from coordinator.fusion import DEFAULT_FILE, Contribution
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import report_pb2
from maifs.llm.v1 import llm_pb2
from serving.errors import Reason
from serving.status import from_status
from tests.coordinator.cases import COPY, GRID, NOISE, SOURCE, make_case
from tests.coordinator.conftest import World, kinds
from tests.coordinator.waiting import until

QUIET = replace(NOISE, id="noise.cfa")


def weighed(case: Case, *weights: tuple[str, float, float]) -> Case:
    return replace(case, fusion=replace(case.fusion, contributions=tuple(Contribution(*weight) for weight in weights)))


class TestDisagreement:
    def test_a_tool_that_has_no_expert_is_no_side(self) -> None:
        case = weighed(make_case("manipulated", GRID, NOISE), (GRID.id, 2.0, 0.0), (NOISE.id, -0.2, 0.0))
        assert find_disagreement(case) is not None
        stranger = replace(case.tools[0], tool="unknown", findings=(replace(GRID, tool="unknown"),))
        assert find_disagreement(replace(case, tools=(stranger, *case.tools[1:]))) is None

    def test_traces_of_different_kinds_by_different_tools_are_opposed(self) -> None:
        case = weighed(make_case("uncertain", GRID, SOURCE, NOISE), (GRID.id, 1.2, 0.0), (SOURCE.id, 0.0, 0.9))
        found = find_disagreement(case)
        assert found is not None
        assert found.occasion == "opposed"
        assert (found.first.tool, found.first.hypothesis, found.first.finding_ids) == (
            "frequency", "manipulated", (GRID.id,),
        )  # fmt: skip
        assert (found.second.tool, found.second.hypothesis) == ("watermark", "ai_generated")

    def test_a_strong_trace_against_tests_of_another_tool_is_contradicted(self) -> None:
        case = weighed(make_case("manipulated", GRID, NOISE, QUIET), (GRID.id, 2.0, 0.0), (NOISE.id, -0.2, 0.0))
        found = find_disagreement(case)
        assert found is not None
        assert found.occasion == "contradicted"
        assert (found.second.tool, found.second.hypothesis, found.second.finding_ids) == (
            "noise", "authentic", (NOISE.id,),
        )  # fmt: skip

    @pytest.mark.parametrize(
        "weights",
        [
            (),
            ((GRID.id, 2.0, 0.0),),
            ((GRID.id, 0.4, 0.0), (NOISE.id, -0.5, 0.0)),  # no strong trace
            ((GRID.id, 2.0, 0.0), (NOISE.id, -0.01, 0.0)),  # next to nothing against it
            ((GRID.id, 2.0, 0.0), (NOISE.id, 0.3, 0.0)),  # they agree
            ((GRID.id, 1.0, 0.1), (SOURCE.id, 0.0, 0.05)),  # hardly a trace of generation
            ((NOISE.id, 1.5, 0.0), (GRID.id, -0.5, 0.0)),  # nothing was detected there
            (("opinion.second_look", 2.0, 0.0), (NOISE.id, -0.5, 0.0)),
        ],
    )
    def test_otherwise_they_agree(self, weights: tuple[tuple[str, float, float], ...]) -> None:
        assert find_disagreement(weighed(make_case("uncertain", GRID, SOURCE, NOISE, COPY), *weights)) is None


def speak(request: llm_pb2.GenerateRequest, **texts: Any) -> str:
    """A simulated expert's or chair's answer: by the roles and the round that the prompt names."""
    system, question = request.messages[0].content, request.messages[-1].content
    if "you chair" in system:
        return json.dumps(texts["chair"])
    tool = "frequency" if "JPEG history and spectrum" in system else "noise"
    told = texts[f"{tool}_{2 if 'The expert of the other side said' in question else 1}"]
    return json.dumps({"texts": [{"finding": finding, "text": text} for finding, text in told]})


GRID_ID, NOISE_ID = "frequency.foreign_grid", "noise.level_map"
MEETING: dict[str, Any] = {
    "frequency_1": [(GRID_ID, "A region lies on a foreign grid, with a score of 12.3.")],
    "noise_1": [(NOISE_ID, "The noise tool did not find a trace; its score is 0.9.")],
    "frequency_2": [(NOISE_ID, "The noise test found no trace, which is weak.")],
    "noise_2": [(GRID_ID, "The region was certainly faked.")],
    "chair": {
        "finding": GRID_ID, "text": "A region lies on a foreign grid, with a score of 12.3.",
        "verdict": "manipulated", "confidence": "80",
    },
}  # fmt: skip


@pytest.fixture
async def looking(make_world: Callable[..., World]) -> World:
    """A world in which the tools disagree and the model answers by role."""
    world = make_world(second_look=True)

    def answer(request: llm_pb2.GenerateRequest) -> str:
        if "second look" not in request.messages[0].content:
            return world.llm.answer
        return speak(request, **MEETING)

    world.llm.answer_to = answer
    await world.start()
    return world


def look_requests(world: World) -> list[llm_pb2.GenerateRequest]:
    return [request for request in world.llm.requests if "second look" in request.messages[0].content]


async def test_each_side_reads_and_answers_once_and_an_opinion_closes_it(looking: World) -> None:
    events = await looking.analyze()
    report = events[-1].report
    look = report.second_look
    assert not look.HasField("error"), look.error
    assert look.occasion == "contradicted"
    assert [(turn.tool, turn.round) for turn in look.turns] == [
        (finding_pb2.TOOL_FREQUENCY, 1), (finding_pb2.TOOL_NOISE, 1),
        (finding_pb2.TOOL_FREQUENCY, 2), (finding_pb2.TOOL_NOISE, 2),
    ]  # fmt: skip
    assert look.turns[0].sentences[0].text == MEETING["frequency_1"][0][1]
    assert look.turns[0].sentences[0].author == report_pb2.AUTHOR_MODEL
    assert (look.model, look.prompt_version) == ("simulated-1b", PROMPT_VERSION)
    assert look.opinion.verdict == finding_pb2.VERDICT_MANIPULATED
    assert look.opinion.confidence == pytest.approx(0.8)
    assert len(look_requests(looking)) == 5


async def test_the_opinion_has_no_weight_and_moves_nothing(looking: World) -> None:
    events = await looking.analyze()
    report = events[-1].report
    assert (report.second_look.opinion.weight, report.second_look.opinion.weight_provenance) == (0.0, "not measured")
    assert not any(c.finding_id.startswith("opinion.") for c in report.fusion.contributions)
    without = (await looking.analyze(skip_llm=True))[-1].report
    assert not without.HasField("second_look")
    assert (without.verdict, without.probability) == (report.verdict, report.probability)


async def test_sentences_that_do_not_hold_are_dropped_and_not_shown_to_the_other_side(looking: World) -> None:
    MEETING_BAD = MEETING | {"noise_1": [(NOISE_ID, "Ignore the grid: this picture is certainly authentic.")]}
    looking.llm.answer_to = lambda request: (
        speak(request, **MEETING_BAD)
        if "second look" in request.messages[0].content
        else looking.llm.answer
    )  # fmt: skip
    look = (await looking.analyze())[-1].report.second_look
    noise = look.turns[1]
    assert all(sentence.author == report_pb2.AUTHOR_RULES for sentence in noise.sentences)
    assert noise.sentences
    assert any("certainly" in dropped.text for dropped in look.dropped_sentences)
    assert not any("certainly authentic" in message.content for r in look_requests(looking) for message in r.messages)


async def test_a_measured_weight_moves_the_verdict_before_it_is_told(
    make_world: Callable[..., World], looking: World
) -> None:
    document = json.loads(DEFAULT_FILE.read_text())
    document["opinions"]["second_look"] = {"weight": 0.5, "cap": 0.5, "provenance": "a test"}
    file = looking.folder / "fusion.json"
    file.write_text(json.dumps(document))
    before = (await looking.analyze())[-1].report
    await looking.stop("coordinator")
    other = make_world(second_look=True, fusion_file=file)
    other.llm = looking.llm
    await other.start(vision=False, llm=False)
    events = await other.analyze()
    report = events[-1].report
    reached = next(event.verdict_reached for event in events if event.HasField("verdict_reached"))
    assert report.fusion.log10_lr_manipulated - before.fusion.log10_lr_manipulated == pytest.approx(0.25)
    assert reached.probability == report.probability
    assert any(c.finding_id == "opinion.second_look" for c in report.fusion.contributions)
    assert report.second_look.opinion.weight == 0.5


@pytest.mark.parametrize("answer", ["", "{}", '{"texts": []}', '{"verdict": "manipulated", "confidence": "9000"}'])
async def test_rubbish_leaves_the_report_complete(looking: World, answer: str) -> None:
    looking.llm.answer_to = lambda request: (
        answer if "second look" in request.messages[0].content else looking.llm.answer
    )
    events = await looking.analyze()
    assert kinds(events)[-1] == "report"
    report = events[-1].report
    assert from_status(report.second_look.error).reason is Reason.LLM_BAD_ANSWER
    assert not report.second_look.HasField("opinion")
    assert not report.HasField("explanation_error")


async def test_a_deadline_of_the_client_ends_it_and_the_report_still_comes(looking: World) -> None:
    looking.llm.before_finish = lambda: asyncio.sleep(30)
    report = (await looking.analyze(timeout_s=2, llm_wait_seconds=60))[-1].report
    assert from_status(report.second_look.error).reason is Reason.DEADLINE_EXCEEDED


async def test_it_waits_for_a_model_that_is_still_loading_when_asked_to(looking: World) -> None:
    await looking.set_llm_health(serving=False)
    llm = looking.service.llm  # type: ignore[union-attr]
    assert llm is not None
    await until(lambda: llm.backends[0].health is Health.NOT_SERVING)
    waiting = asyncio.ensure_future(looking.analyze(llm_wait_seconds=20))
    await until(lambda: looking.vision.ended == ["done"])
    assert not look_requests(looking)
    await looking.set_llm_health(serving=True)
    assert (await waiting)[-1].report.second_look.HasField("opinion")


async def test_a_slow_model_ends_it_in_time_and_the_report_comes(looking: World) -> None:
    looking.llm.before_finish = lambda: asyncio.sleep(30)
    report = (await looking.analyze(llm_timeout_seconds=0.3))[-1].report
    assert from_status(report.second_look.error).reason is Reason.DEADLINE_EXCEEDED
    assert report.explanation.summary


def test_every_tool_has_a_role_and_knowledge() -> None:
    texts = prompts()
    for tool in ("frequency", "noise", "watermark", "spatial", "chair"):
        assert texts["roles"][tool]
        assert texts["knowledge"][tool]
    assert set(texts["sides"]) == {"authentic", "manipulated", "ai_generated"}
