"""What the service answers: events of a generation, the model's description, its load; no gRPC, no vLLM."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


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
class TokenCandidate:
    """A token and the natural logarithm of its probability."""

    token_id: int
    text: str
    logprob: float


@dataclass(frozen=True)
class TokenLogprob:
    """A token of the answer and the likeliest tokens at its place, likeliest first."""

    token: TokenCandidate
    top: tuple[TokenCandidate, ...]


@dataclass(frozen=True)
class Delta:
    """More text, and its tokens when they were asked for."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


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
    padded_intermediate_columns_count: int
    padded_vocabulary_rows_count: int
    padding_weights_ratio: float
    padding_kv_cache_ratio: float
    profile: str
    max_model_len_tokens_count: int
    max_running_requests_count: int
    prefix_caching: bool
    engine_version: str


@dataclass(frozen=True)
class Load:
    """Work at one moment, as admission counts it."""

    active_requests_count: int
    completed_requests_count: int
    output_tokens_count: int
    oldest_request_s: float = 0.0
    """Age of the oldest active request."""


@dataclass(frozen=True)
class EngineLoad:
    """Work in the engine after its latest step."""

    running_requests_count: int = 0
    waiting_requests_count: int = 0
    kv_cache_usage_ratio: float = 0.0
    """Share of the KV cache in use, 0..1."""
