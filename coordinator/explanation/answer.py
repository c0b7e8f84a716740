"""What the language model is asked for, as a JSON schema, and what it answered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from coordinator.case import TOOLS, Case
from serving.errors import MaifsError, Reason

VERDICT_ID = "verdict"
"""What a text names when it speaks of the verdict and of no finding."""

MAX_SUMMARY, MAX_UNCERTAINTIES = 2, 1
_SUMMARY_CHARACTERS, _READING_CHARACTERS = 180, 140


@dataclass(frozen=True)
class Claim:
    """A text of the model and the one finding that it speaks of."""

    text: str
    finding_id: str
    """Finding.id, or VERDICT_ID."""


@dataclass(frozen=True)
class Answer:
    """The model's explanation, unchecked."""

    summary: tuple[Claim, ...]
    readings: Mapping[str, Claim]
    """By tool."""
    uncertainties: tuple[Claim, ...]


def answer_schema(case: Case) -> str:
    """JSON schema of the answer for a case.

    Ids are enums of what was tested (in the summary: of what was detected), a reading is asked only of tools with a
    test that ran, and every text and list is bounded, so that a model that does not find an end still stays within some
    300 tokens.
    """
    by_tool = {
        tool.tool: [f.id for f in tool.findings if f.tested]
        for tool in sorted(case.tools, key=lambda t: TOOLS.index(t.tool) if t.tool in TOOLS else len(TOOLS))
    }
    tested = [finding_id for ids in by_tool.values() for finding_id in ids]
    detected = [f.id for f in case.findings() if f.tested and f.detected]
    most = MAX_SUMMARY if detected else 1
    properties: dict[str, Any] = {"summary": claims_schema([VERDICT_ID, *detected], _SUMMARY_CHARACTERS, most)}
    properties |= {tool: claim_schema(ids, _READING_CHARACTERS) for tool, ids in by_tool.items() if ids}
    properties["uncertainties"] = claims_schema([VERDICT_ID, *tested], _READING_CHARACTERS, MAX_UNCERTAINTIES)
    return json.dumps(object_schema(properties))


def object_schema(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Schema of an object that has all these properties and no other."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def claim_schema(ids: list[str], characters: int) -> dict[str, Any]:
    """Schema of a text on one of the findings."""
    return object_schema({"finding": {"enum": ids}, "text": {"type": "string", "maxLength": characters}})


def claims_schema(ids: list[str], characters: int, most: int) -> dict[str, Any]:
    """Schema of one to `most` texts."""
    return {"type": "array", "minItems": 1, "maxItems": most, "items": claim_schema(ids, characters)}


def parse_answer(text: str) -> Answer:
    """Reads an answer.

    An answer that the token limit cut off keeps what was complete: every text is checked on its own anyway.

    Raises:
        MaifsError: LLM_BAD_ANSWER when there is no text in it that could be used.
    """
    document = parse_document(text)
    summary = claim_list(document.get("summary"), MAX_SUMMARY)
    uncertainties = claim_list(document.get("uncertainties"), MAX_UNCERTAINTIES)
    readings = {tool: claim for tool in TOOLS if (claim := to_claim(document.get(tool))) is not None}
    if not (summary or readings or uncertainties):
        raise MaifsError(Reason.LLM_BAD_ANSWER, f"The language model's answer holds no explanation: {text[:120]!r}.")
    return Answer(summary, readings, uncertainties)


def parse_document(text: str) -> dict[str, Any]:
    """The object that a model answered, cut back to what is complete.

    Raises:
        MaifsError: LLM_BAD_ANSWER when there is none.
    """
    for candidate in (text, _closed(text)):
        try:
            document = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            return document
    raise MaifsError(Reason.LLM_BAD_ANSWER, f"The language model's answer is not JSON: {text[:120]!r}.")


def _closed(text: str) -> str:
    """A cut-off object, cut back to its last complete claim and closed."""
    end = text.rfind("}")
    kept = text[: end + 1]
    return kept + _closers(kept)


def _closers(text: str) -> str:
    """The brackets that are open outside of strings, closed in order."""
    closing = {"{": "}", "[": "]"}
    stack: list[str] = []
    for token in re.findall(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', text):
        if token in closing:
            stack.append(closing[token])
        elif token in closing.values() and stack:
            stack.pop()
    return "".join(reversed(stack))


def claim_list(value: Any, most: int) -> tuple[Claim, ...]:
    """The texts of a list; what is no text is left out."""
    if not isinstance(value, list):
        return ()
    return tuple(claim for item in value[:most] if (claim := to_claim(item)) is not None)


def to_claim(value: Any) -> Claim | None:
    """A text with the finding that it names; None when it is something else."""
    if not isinstance(value, dict):
        return None
    text, finding_id = value.get("text"), value.get("finding")
    if not isinstance(text, str) or not isinstance(finding_id, str) or not text.strip():
        return None
    return Claim(text.strip(), finding_id)
