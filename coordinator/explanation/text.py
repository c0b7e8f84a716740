"""What an explanation is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Author = Literal["rules", "model"]


@dataclass(frozen=True)
class Sentence:
    """One sentence and the findings that it speaks of."""

    text: str
    author: Author
    finding_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class ToolReading:
    """What one tool's findings mean."""

    tool: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Dropped:
    """A sentence of the model that did not hold, and why."""

    text: str
    reason: str


@dataclass(frozen=True)
class Explanation:
    """Why the verdict is what it is. The counts cover what the model wrote."""

    summary: tuple[Sentence, ...]
    readings: tuple[ToolReading, ...]
    uncertainties: tuple[Sentence, ...]
    model: str = ""
    prompt_version: str = ""
    model_sentences: int = 0
    dropped: tuple[Dropped, ...] = ()
