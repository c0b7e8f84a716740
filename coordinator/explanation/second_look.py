"""A second look where tools disagree: an expert for each side, one answer each, then an opinion."""

from __future__ import annotations

import asyncio
import json
import math
import tomllib
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from coordinator.backends.fair_queue import Turn
from coordinator.case import Case
from coordinator.explanation.answer import claim_list, claims_schema, object_schema, parse_document, to_claim
from coordinator.explanation.catalogue import Catalogue
from coordinator.explanation.compose import Survey
from coordinator.explanation.disagreement import Disagreement, Side
from coordinator.explanation.grounding import Section
from coordinator.explanation.grounds import Grounds
from coordinator.explanation.model import Model
from coordinator.explanation.prompt import LANGUAGE_NAMES, evidence_row
from coordinator.explanation.rules import finding_sentence
from coordinator.explanation.text import Dropped, Sentence
from coordinator.fusion import Opinion, Verdict
from coordinator.llm_client import Message
from serving.errors import MaifsError, Reason

PROMPT_VERSION = "second_look_v1"
"""File of the prompt texts; part of every second look. A changed text is a new version."""

MAX_TOKENS = 200
"""Longest turn; the JSON schema bounds the text below that."""
_CHARACTERS = 160
_VERDICTS: tuple[Verdict, ...] = ("authentic", "manipulated", "ai_generated", "uncertain")
_CONFIDENCES = ("50", "60", "70", "80", "90")

T = TypeVar("T")


@dataclass(frozen=True)
class Spoken:
    """One turn."""

    side: Side
    round: int
    """1: reading, 2: answer."""
    sentences: tuple[Sentence, ...]


@dataclass
class SecondLook:
    """The transcript and what came out; grows while it is held."""

    occasion: str
    spoken: list[Spoken] = field(default_factory=list)
    opinion: Opinion | None = None
    reasons: tuple[Sentence, ...] = ()
    model: str = ""
    prompt_version: str = PROMPT_VERSION
    model_sentences: int = 0
    dropped: tuple[Dropped, ...] = ()
    error: MaifsError | None = None


@cache
def prompts() -> dict[str, Any]:
    """The prompt texts."""
    path = Path(__file__).parent / "prompts" / f"{PROMPT_VERSION}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


async def hold_second_look(
    case: Case,
    disagreement: Disagreement,
    words: Catalogue,
    model: Model,
    *,
    turn: Turn,
    timeout_s: float,
    wait_s: float = 0.0,
    deadline: float = math.inf,
) -> SecondLook:
    """Holds a second look; always returns, with `error` set where it could not be held to its end.

    Only sentences that hold against the findings are kept, shown to the other side and weighed; where none does, the
    rules' sentence on the side's strongest finding speaks for it.

    Args:
        case: the evidence and the verdict.
        disagreement: who disagrees.
        words: catalogue of the report's language.
        model: the language model.
        turn: for whom.
        timeout_s: most seconds in all.
        wait_s: before that, most seconds to wait for a model that is still loading.
        deadline: moment by the event loop's clock at which it must have ended.
    """
    meeting = _Meeting(case, disagreement, words, model, turn, timeout_s)
    try:
        async with asyncio.timeout_at(None if deadline == math.inf else deadline):
            if wait_s > 0:
                await model.wait_serving(wait_s)
            async with asyncio.timeout(timeout_s):
                await meeting.hold()
    except TimeoutError:
        message = "The language model did not end its second look in time."
        meeting.look.error = MaifsError(Reason.DEADLINE_EXCEEDED, message)
    except MaifsError as error:
        meeting.look.error = error
    meeting.look.model_sentences = meeting.survey.written
    meeting.look.dropped = tuple(meeting.survey.dropped)
    return meeting.look


class _Meeting:
    def __init__(
        self, case: Case, disagreement: Disagreement, words: Catalogue, model: Model, turn: Turn, timeout_s: float
    ) -> None:
        self._case, self._words, self._model, self._turn, self._timeout_s = case, words, model, turn, timeout_s
        self._sides = (disagreement.first, disagreement.second)
        self.look = SecondLook(disagreement.occasion)
        self.survey = Survey(Grounds(case, words))

    async def hold(self) -> None:
        first, second = self._sides
        readings = await _together(*(self._speak(side, 1, ()) for side in self._sides))
        self.look.spoken += readings
        self.look.spoken += await _together(
            self._speak(first, 2, readings[1].sentences), self._speak(second, 2, readings[0].sentences)
        )
        await self._conclude()

    async def _speak(self, side: Side, number: int, other: Sequence[Sentence]) -> Spoken:
        own = [f.id for f in self._case.findings() if f.tool == side.tool and f.tested]
        ids = own if number == 1 else [*own, *self._cited_of_other(side)]
        question = prompts()["reading" if number == 1 else "answer"].format(
            table=self._table(ids),
            side=prompts()["sides"][side.hypothesis],
            other=_listed(other),
            language=LANGUAGE_NAMES[self._words.language],
        )
        schema = json.dumps(object_schema({"texts": claims_schema(ids, _CHARACTERS, 2)}))
        document = await self._ask(side.tool, question, schema)
        section: Section = "reading" if number == 1 else "uncertainty"
        said = self.survey.survivors(claim_list(document.get("texts"), 2), section, side.tool if number == 1 else None)
        return Spoken(side, number, tuple(said) or self._for_want_of_words(side))

    def _cited_of_other(self, side: Side) -> tuple[str, ...]:
        return next(other.finding_ids for other in self._sides if other is not side)

    def _for_want_of_words(self, side: Side) -> tuple[Sentence, ...]:
        strongest = next(f for f in self._case.findings() if f.id == side.finding_ids[0])
        return (finding_sentence(strongest, self._words),)

    async def _conclude(self) -> None:
        ids = [finding_id for side in self._sides for finding_id in side.finding_ids]
        question = prompts()["opinion"].format(
            table=self._table(ids),
            transcript="\n".join(f"{spoken.side.tool}: {_joined(spoken.sentences)}" for spoken in self.look.spoken),
            language=LANGUAGE_NAMES[self._words.language],
        )
        schema = object_schema(
            {
                "finding": {"enum": ids},
                "text": {"type": "string", "maxLength": _CHARACTERS},
                "verdict": {"enum": list(_VERDICTS)},
                "confidence": {"enum": list(_CONFIDENCES)},
            }
        )
        document = await self._ask("chair", question, json.dumps(schema))
        if document.get("verdict") not in _VERDICTS or document.get("confidence") not in _CONFIDENCES:
            raise MaifsError(Reason.LLM_BAD_ANSWER, "The language model's opinion has no verdict or no confidence.")
        self.look.opinion = Opinion("second_look", document["verdict"], int(document["confidence"]) / 100)
        claim = to_claim(document)
        if claim is not None:
            self.look.reasons = tuple(self.survey.survivors([claim], "uncertainty"))

    async def _ask(self, role: str, question: str, schema: str) -> dict[str, Any]:
        texts = prompts()
        instructions = texts["system"].format(role=texts["roles"][role], knowledge=texts["knowledge"][role])
        answered = await self._model.ask(
            (Message("system", instructions.strip()), Message("user", question)),
            json_schema=schema,
            max_tokens=MAX_TOKENS,
            timeout_s=self._timeout_s,
            turn=self._turn,
        )
        self.look.model = answered.model
        return parse_document(answered.text)

    def _table(self, ids: Sequence[str]) -> str:
        rows = [evidence_row(f, self._case, self._words) for f in self._case.findings() if f.id in ids]
        return "\n".join(["FINDINGS:", *rows])


def _joined(sentences: Sequence[Sentence]) -> str:
    return " ".join(sentence.text for sentence in sentences)


def _listed(sentences: Sequence[Sentence]) -> str:
    return "\n".join(f"- {sentence.text}" for sentence in sentences)


async def _together(*work: Coroutine[Any, Any, T]) -> list[T]:
    """All results; when one fails, the others are given up."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
