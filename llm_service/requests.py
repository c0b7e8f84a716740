"""Requests as the service knows them, with their limits; no gRPC, no vLLM."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from serving.errors import MaifsError, Reason

MAX_STOP_TEXTS = 8
MAX_STOP_CHARACTERS = 256
MAX_TEMPERATURE = 2.0
MAX_MESSAGES = 1024
MAX_CHOICES = 256
MAX_CHOICE_CHARACTERS = 1024
MAX_TOP_LOGPROBS = 20
"""vLLM's own default limit (max_logprobs)."""
MAX_PRIORITY = 1_000_000


class Role(StrEnum):
    """Who speaks; the values are those of chat templates."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: Role
    content: str
    images: tuple[bytes, ...] = ()
    """Encoded picture files, shown before the text."""


@dataclass(frozen=True)
class Constraint:
    """The form that an answer must have; at most one of the fields is given."""

    json_schema: str = ""
    """JSON Schema as text."""
    choices: tuple[str, ...] = ()
    """The answer is one of these."""
    regex: str = ""
    """The whole answer matches this."""
    grammar: str = ""
    """EBNF with the start rule `root`, or Lark."""

    @property
    def given(self) -> list[str]:
        """Names of the fields that are given."""
        return [name for name in ("json_schema", "choices", "regex", "grammar") if getattr(self, name)]

    def faults(self) -> list[str]:
        """What is wrong with it, apart from what the grammar engine thinks of it."""
        found = []
        if len(self.given) > 1:
            found.append(f"{' and '.join(self.given)} are given: at most one of them may be")
        if len(self.choices) > MAX_CHOICES:
            found.append(f"choices has {len(self.choices)} texts: at most {MAX_CHOICES}")
        if any(not 1 <= len(text) <= MAX_CHOICE_CHARACTERS for text in self.choices):
            found.append(f"choices: each text must have 1 to {MAX_CHOICE_CHARACTERS} characters")
        return found


FREE_TEXT = Constraint()
"""No constraint."""


@dataclass(frozen=True)
class Generation:
    """A request for one answer."""

    messages: tuple[Message, ...]
    max_tokens_count: int = 0
    """0 takes the service's default."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    constraint: Constraint = FREE_TEXT
    priority: int = 0
    """Lower runs earlier."""
    stop: tuple[str, ...] = ()
    top_logprobs_count: int | None = None
    """Likeliest tokens to tell at each place; None asks for no log-probabilities."""
    adapter: str = ""
    """Name of a LoRA adapter; empty for the model alone."""

    def check(self, max_output_tokens_count: int) -> None:
        """Checks ranges.

        Raises:
            MaifsError: INVALID_REQUEST naming every fault.
        """
        faults = _message_faults(self.messages)
        if not 0 <= self.max_tokens_count <= max_output_tokens_count:
            faults.append(f"max_tokens_count = {self.max_tokens_count}: must be 0 to {max_output_tokens_count}")
        faults.extend(self._sampling_faults())
        faults.extend(_stop_faults(self.stop))
        faults.extend(self.constraint.faults())
        _raise(faults)

    def _sampling_faults(self) -> list[str]:
        found = []
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= MAX_TEMPERATURE):
            found.append(f"temperature = {self.temperature}: must be 0 to {MAX_TEMPERATURE:g}")
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            found.append(f"top_p = {self.top_p}: must be above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            found.append(f"seed = {self.seed}: must be at least 0")
        if abs(self.priority) > MAX_PRIORITY:
            found.append(f"priority = {self.priority}: must be {-MAX_PRIORITY:,} to {MAX_PRIORITY:,}")
        if self.top_logprobs_count is not None and not 0 <= self.top_logprobs_count <= MAX_TOP_LOGPROBS:
            found.append(f"top_logprobs_count = {self.top_logprobs_count}: must be 0 to {MAX_TOP_LOGPROBS}")
        return found


def check_messages(messages: Sequence[Message]) -> None:
    """Checks a conversation alone.

    Raises:
        MaifsError: INVALID_REQUEST.
    """
    _raise(_message_faults(messages))


def _message_faults(messages: Sequence[Message]) -> list[str]:
    if not messages:
        return ["messages is empty: at least one is needed"]
    if len(messages) > MAX_MESSAGES:
        return [f"messages has {len(messages)} entries: at most {MAX_MESSAGES}"]
    return []


def _stop_faults(stop: tuple[str, ...]) -> list[str]:
    faults = []
    if len(stop) > MAX_STOP_TEXTS:
        faults.append(f"stop has {len(stop)} texts: at most {MAX_STOP_TEXTS}")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        faults.append(f"stop: each text must have 1 to {MAX_STOP_CHARACTERS} characters")
    return faults


def _raise(faults: list[str]) -> None:
    if faults:
        raise MaifsError(Reason.INVALID_REQUEST, f"The request has {len(faults)} fault(s): " + "; ".join(faults) + ".")
