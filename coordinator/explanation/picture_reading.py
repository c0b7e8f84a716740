"""What a vision-language model sees in a downscaled copy of the picture, for itself and without the findings."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from coordinator.backends.fair_queue import Turn
from coordinator.explanation.answer import object_schema, parse_document
from coordinator.explanation.model import Model
from coordinator.explanation.prompt import LANGUAGE_NAMES
from coordinator.explanation.untrusted import harmless
from coordinator.fusion import Opinion, Verdict
from coordinator.llm_client import Message
from coordinator.render.picture import Copy, copies
from serving.encoded import Encoded
from serving.errors import MaifsError, Reason

PROMPT_VERSION = "picture_reading_v1"
"""File of the prompt texts; part of every reading. A changed text is a new version."""

SIDE_PX = 1024
"""Longest side of the copy that the model sees."""
MAX_TOKENS = 400
_JPEG_QUALITY = 90
_MAX_INCONSISTENCIES, _MAX_TEXTS = 4, 4
_CHARACTERS = 160
_VERDICTS: tuple[Verdict, ...] = ("authentic", "manipulated", "ai_generated", "uncertain")
_CONFIDENCES = ("50", "60", "70", "80", "90")

Kind = Literal["semantic", "physical"]


@dataclass(frozen=True)
class Inconsistency:
    """Something that does not fit."""

    kind: Kind
    text: str


@dataclass(frozen=True)
class PictureReading:
    """What the model says. Nothing in it could be checked: no test measures what a picture shows."""

    depicted: str = ""
    inconsistencies: tuple[Inconsistency, ...] = ()
    texts: tuple[str, ...] = ()
    """Writing in the picture; untrusted."""
    opinion: Opinion | None = None
    model: str = ""
    width_px: int = 0
    height_px: int = 0
    prompt_version: str = PROMPT_VERSION
    error: MaifsError | None = None


@cache
def _prompts() -> dict[str, str]:
    path = Path(__file__).parent / "prompts" / f"{PROMPT_VERSION}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


async def read_picture(
    file: Encoded, language: str, model: Model, decoding: asyncio.Semaphore, *, turn: Turn, timeout_s: float
) -> PictureReading:
    """Shows the model the picture; always returns, with `error` set where there is no reading.

    Args:
        file: the picture.
        language: of the report.
        model: a model that takes pictures.
        decoding: bounds the pictures that are decoded at a time.
        turn: for whom.
        timeout_s: most seconds in all.
    """
    try:
        async with asyncio.timeout(timeout_s):
            async with decoding:
                data = file.whole()  # here and not in the thread: the file is being sent to the tools too
                copy = await asyncio.to_thread(make_copy, data)
            answered = await model.ask(
                (
                    Message("system", _prompts()["system"].strip()),
                    Message("user", _prompts()["question"].format(language=LANGUAGE_NAMES[language]), (copy.jpeg,)),
                ),
                json_schema=_schema(),
                max_tokens=MAX_TOKENS,
                timeout_s=timeout_s,
                turn=turn,
            )
        return _parse(parse_document(answered.text), answered.model, copy)
    except TimeoutError:
        message = f"The language model did not read the picture within {timeout_s:.1f} s."
        return PictureReading(error=MaifsError(Reason.DEADLINE_EXCEEDED, message))
    except MaifsError as error:
        return PictureReading(error=error)


def make_copy(data: bytes) -> Copy:
    """A JPEG with no side above `SIDE_PX`.

    Raises:
        MaifsError: CORRUPT_IMAGE for what cannot be decoded, TOO_MANY_PIXELS, DECODER_FAILED.
    """
    return copies(data, (SIDE_PX, _JPEG_QUALITY))[0]


def _schema() -> str:
    text = {"type": "string", "maxLength": _CHARACTERS}
    inconsistency = object_schema({"kind": {"enum": ["semantic", "physical"]}, "text": text})
    properties: dict[str, Any] = {
        "depicted": text,
        "inconsistencies": {"type": "array", "maxItems": _MAX_INCONSISTENCIES, "items": inconsistency},
        "texts": {"type": "array", "maxItems": _MAX_TEXTS, "items": text},
        "verdict": {"enum": list(_VERDICTS)},
        "confidence": {"enum": list(_CONFIDENCES)},
    }
    return json.dumps(object_schema(properties))


def _parse(document: dict[str, Any], model: str, copy: Copy) -> PictureReading:
    if document.get("verdict") not in _VERDICTS or document.get("confidence") not in _CONFIDENCES:
        raise MaifsError(Reason.LLM_BAD_ANSWER, "The language model's reading has no verdict or no confidence.")
    return PictureReading(
        depicted=_line(document.get("depicted")),
        inconsistencies=tuple(_inconsistencies(document.get("inconsistencies"))),
        texts=tuple(line for value in _list(document.get("texts"))[:_MAX_TEXTS] if (line := _line(value))),
        opinion=Opinion("picture_reading", document["verdict"], int(document["confidence"]) / 100),
        model=model,
        width_px=copy.width_px,
        height_px=copy.height_px,
    )


def _inconsistencies(value: Any) -> Iterable[Inconsistency]:
    for entry in _list(value)[:_MAX_INCONSISTENCIES]:
        if isinstance(entry, dict) and (text := _line(entry.get("text"))):
            kind: Kind = "physical" if entry.get("kind") == "physical" else "semantic"
            yield Inconsistency(kind, text)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _line(value: Any) -> str:
    return harmless(value, _CHARACTERS) if isinstance(value, str) else ""
