"""maifs.llm.v1.LlmService: translates between the contract and the engine."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

from google.protobuf import duration_pb2

from llm_service.coalescing import MAX_DELTA_INTERVAL_S, coalesced
from llm_service.config import LlmConfig
from llm_service.domain import Delta, Finish, FinishReason, ModelDescription, TokenCandidate, TokenLogprob
from llm_service.engine import Engine
from llm_service.metrics import LlmMetrics
from llm_service.requests import Constraint, Generation, Message, Role
from maifs.common.v1 import finding_pb2
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving import __version__
from serving.access.caller import counted
from serving.errors import MaifsError, Reason
from serving.gpu.report import current_pin
from serving.tracing import record

_ROLES = {
    llm_pb2.ROLE_SYSTEM: Role.SYSTEM,
    llm_pb2.ROLE_USER: Role.USER,
    llm_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
}
_REASONS = {
    FinishReason.STOP: llm_pb2.FINISH_REASON_STOP,
    FinishReason.LENGTH: llm_pb2.FINISH_REASON_LENGTH,
}


class LlmServicer(llm_pb2_grpc.LlmServiceServicer):
    """The gRPC methods. Answers UNAVAILABLE until `open`."""

    def __init__(self, config: LlmConfig, metrics: LlmMetrics) -> None:
        self._config, self._metrics = config, metrics
        self._opened: tuple[Engine, ModelDescription] | None = None

    def open(self, engine: Engine, description: ModelDescription) -> None:
        """Begins to serve."""
        self._opened = (engine, description)

    def close(self) -> None:
        """Ends to serve."""
        self._opened = None

    async def Generate(  # noqa: N802 - the contract's name
        self, request: llm_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[llm_pb2.GenerateResponse]:
        """See the contract."""
        engine, _ = self._ready()
        if not 0 <= (interval_s := request.delta_interval_seconds) <= MAX_DELTA_INTERVAL_S:
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"delta_interval_seconds = {interval_s}: must be between 0 and {MAX_DELTA_INTERVAL_S:g}.",
            )
        with counted(request.ByteSize()):
            async with aclosing(coalesced(engine.generate(_generation(request)), interval_s)) as events:
                async for event in events:
                    match event:
                        case Delta(text, logprobs):
                            yield llm_pb2.GenerateResponse(delta=text, logprobs=map(_token_logprob, logprobs))
                        case Finish():
                            self._metrics.finished(event)
                            _trace(event)
                            yield llm_pb2.GenerateResponse(finish=_finish(event))

    async def WarmPrefix(  # noqa: N802 - the contract's name
        self, request: llm_pb2.WarmPrefixRequest, context: Any
    ) -> llm_pb2.WarmPrefixResponse:
        """See the contract."""
        engine, _ = self._ready()
        warmed = await engine.warm_prefix(_messages(request.messages), request.adapter)
        self._metrics.warmed(warmed)
        return llm_pb2.WarmPrefixResponse(
            prompt_tokens_count=warmed.prompt_tokens_count,
            cached_prompt_tokens_count=warmed.cached_prompt_tokens_count,
            duration=_duration(warmed.duration_s),
        )

    async def GetModelInfo(  # noqa: N802 - the contract's name
        self, request: llm_pb2.GetModelInfoRequest, context: Any
    ) -> llm_pb2.GetModelInfoResponse:
        """See the contract."""
        engine, model = self._ready()
        load, in_engine = engine.load(), engine.engine_load()
        return llm_pb2.GetModelInfoResponse(
            model=model.model,
            architecture=model.architecture,
            dtype=model.dtype,
            quantization=model.quantization,
            layout=_layout(model),
            limits=llm_pb2.LlmLimits(
                max_model_len_tokens_count=model.max_model_len_tokens_count,
                max_output_tokens_count=self._config.max_output_tokens_count,
                max_running_requests_count=model.max_running_requests_count,
                max_queued_requests_count=self._config.max_queued_requests_count,
                max_images_count=engine.max_images_count,
            ),
            load=llm_pb2.LlmLoad(
                active_requests_count=load.active_requests_count,
                completed_requests_count=load.completed_requests_count,
                output_tokens_count=load.output_tokens_count,
                running_requests_count=in_engine.running_requests_count,
                waiting_requests_count=in_engine.waiting_requests_count,
                kv_cache_usage_ratio=in_engine.kv_cache_usage_ratio,
            ),
            engine_version=model.engine_version,
            service_version=__version__,
            prefix_caching=model.prefix_caching,
            gpu_pin=current_pin().message(),
            adapters=engine.adapters,
        )

    def _ready(self) -> tuple[Engine, ModelDescription]:
        if self._opened is None:
            raise MaifsError(
                Reason.BACKEND_UNAVAILABLE,
                "The model is still loading.",
                "Wait until the health service says SERVING.",
                retry_after_s=2.0,
            )
        return self._opened


def _generation(request: llm_pb2.GenerateRequest) -> Generation:
    return Generation(
        messages=_messages(request.messages),
        max_tokens_count=request.max_tokens_count,
        temperature=request.temperature,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        seed=request.seed if request.HasField("seed") else None,
        constraint=Constraint(
            json_schema=request.json_schema,
            choices=tuple(request.choices),
            regex=request.regex,
            grammar=request.grammar,
        ),
        priority=request.priority,
        stop=tuple(request.stop),
        top_logprobs_count=request.top_logprobs_count if request.HasField("top_logprobs_count") else None,
        adapter=request.adapter,
    )


def _messages(messages: Iterable[llm_pb2.ChatMessage]) -> tuple[Message, ...]:
    return tuple(_message(index, message) for index, message in enumerate(messages))


def _message(index: int, message: llm_pb2.ChatMessage) -> Message:
    role = _ROLES.get(message.role)
    if role is None:
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"messages[{index}].role = {message.role}: must be ROLE_SYSTEM, ROLE_USER or ROLE_ASSISTANT.",
        )
    return Message(role, message.content, tuple(image.data for image in message.images))


def _token_logprob(token: TokenLogprob) -> llm_pb2.TokenLogprob:
    return llm_pb2.TokenLogprob(token=_candidate(token.token), top=map(_candidate, token.top))


def _candidate(candidate: TokenCandidate) -> llm_pb2.TokenCandidate:
    return llm_pb2.TokenCandidate(token_id=candidate.token_id, text=candidate.text, logprob=candidate.logprob)


def _finish(finish: Finish) -> llm_pb2.GenerateFinish:
    return llm_pb2.GenerateFinish(
        reason=_REASONS[finish.reason],
        usage=llm_pb2.Usage(
            prompt_tokens_count=finish.usage.prompt_tokens_count,
            cached_prompt_tokens_count=finish.usage.cached_prompt_tokens_count,
            output_tokens_count=finish.usage.output_tokens_count,
        ),
        timings=[
            finding_pb2.PhaseTiming(phase=phase, duration=_duration(seconds))
            for phase, seconds in finish.timings_s.items()
        ],
    )


def _layout(model: ModelDescription) -> llm_pb2.ParallelLayout:
    return llm_pb2.ParallelLayout(
        tensor_parallel_size=model.tensor_parallel_size,
        pipeline_parallel_size=model.pipeline_parallel_size,
        devices=model.devices,
        attention_heads_count=model.attention_heads_count,
        kv_heads_count=model.kv_heads_count,
        padded_attention_heads_count=model.padded_attention_heads_count,
        padded_kv_heads_count=model.padded_kv_heads_count,
        padded_intermediate_columns_count=model.padded_intermediate_columns_count,
        padded_vocabulary_rows_count=model.padded_vocabulary_rows_count,
        padding_weights_ratio=model.padding_weights_ratio,
        padding_kv_cache_ratio=model.padding_kv_cache_ratio,
        profile=model.profile,
    )


def _trace(finish: Finish) -> None:
    """Spans of the phases of an answer, which the engine tells at its end."""
    begin = time.perf_counter() - finish.timings_s.get("total", 0.0)
    for phase in ("queue", "prefill", "decode"):
        seconds = finish.timings_s.get(phase, 0.0)
        record(phase, begin, seconds)
        begin += seconds


def _duration(seconds: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
