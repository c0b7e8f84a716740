"""What the service speaks of inside: requests, events and the model's description; no gRPC, no vLLM."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from serving.errors import MaifsError, Reason

MAX_STOP_TEXTS = 8
MAX_STOP_CHARACTERS = 256
MAX_TEMPERATURE = 2.0
MAX_MESSAGES = 1024


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


@dataclass(frozen=True)
class Generation:
    """A request for one answer."""

    messages: tuple[Message, ...]
    max_tokens_count: int = 0
    """0 takes the service's default."""
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    json_schema: str = ""
    """JSON Schema as text; empty for free text."""
    priority: int = 0
    """Lower runs earlier."""
    stop: tuple[str, ...] = ()

    def check(self, max_output_tokens_count: int) -> None:
        """Checks ranges.

        Raises:
            MaifsError: INVALID_REQUEST naming every fault.
        """
        faults = list(message_faults(self.messages))
        if not 0 <= self.max_tokens_count <= max_output_tokens_count:
            faults.append(f"max_tokens_count = {self.max_tokens_count}: must be 0 to {max_output_tokens_count}")
        if not (math.isfinite(self.temperature) and 0 <= self.temperature <= MAX_TEMPERATURE):
            faults.append(f"temperature = {self.temperature}: must be 0 to {MAX_TEMPERATURE:g}")
        if not (math.isfinite(self.top_p) and 0 < self.top_p <= 1):
            faults.append(f"top_p = {self.top_p}: must be above 0 and at most 1")
        if self.seed is not None and self.seed < 0:
            faults.append(f"seed = {self.seed}: must be at least 0")
        faults.extend(_stop_faults(self.stop))
        _raise(faults)


def _stop_faults(stop: tuple[str, ...]) -> list[str]:
    faults = []
    if len(stop) > MAX_STOP_TEXTS:
        faults.append(f"stop has {len(stop)} texts: at most {MAX_STOP_TEXTS}")
    if any(not 1 <= len(text) <= MAX_STOP_CHARACTERS for text in stop):
        faults.append(f"stop: each text must have 1 to {MAX_STOP_CHARACTERS} characters")
    return faults


def message_faults(messages: tuple[Message, ...]) -> list[str]:
    """What is wrong with a conversation."""
    if not messages:
        return ["messages is empty: at least one is needed"]
    if len(messages) > MAX_MESSAGES:
        return [f"messages has {len(messages)} entries: at most {MAX_MESSAGES}"]
    return []


def check_messages(messages: tuple[Message, ...]) -> None:
    """Checks a conversation alone.

    Raises:
        MaifsError: INVALID_REQUEST.
    """
    _raise(message_faults(messages))


def _raise(faults: list[str]) -> None:
    if faults:
        raise MaifsError(Reason.INVALID_REQUEST, f"The request has {len(faults)} fault(s): " + "; ".join(faults) + ".")


class FinishReason(StrEnum):
    """Why a generation ended; the values are vLLM's."""

    STOP = "stop"
    LENGTH = "length"


@dataclass(frozen=True)
class Usage:
    """Tokens counted."""

    prompt_tokens_count: int
    cached_prompt_tokens_count: int
    output_tokens_count: int


@dataclass(frozen=True)
class Delta:
    """More text."""

    text: str


@dataclass(frozen=True)
class Finish:
    """The end of a generation."""

    reason: FinishReason
    usage: Usage
    timings_s: dict[str, float]
    """Phases "queue", "prefill", "decode", "total", in seconds."""


@dataclass(frozen=True)
class WarmedPrefix:
    """A prefix whose KV cache is computed."""

    prompt_tokens_count: int
    cached_prompt_tokens_count: int
    """Tokens that were in the cache before."""
    duration_s: float


@dataclass(frozen=True)
class ModelDescription:
    """What was loaded."""

    model: str
    architecture: str
    dtype: str
    quantization: str
    tensor_parallel_size: int
    pipeline_parallel_size: int
    devices: tuple[str, ...]
    attention_heads_count: int
    kv_heads_count: int
    padded_attention_heads_count: int
    padded_kv_heads_count: int
    max_model_len_tokens_count: int
    max_running_requests_count: int
    prefix_caching: bool
    engine_version: str


@dataclass(frozen=True)
class Load:
    """Work at one moment."""

    active_requests_count: int
    completed_requests_count: int
    output_tokens_count: int
