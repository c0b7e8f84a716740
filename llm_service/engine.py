"""The engine: conversations in, deltas out. Knows vLLM's AsyncLLM and no gRPC."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from llm_service.admission import Admission
from llm_service.config import LlmConfig
from llm_service.domain import (
    Delta,
    Finish,
    FinishReason,
    Generation,
    Load,
    Message,
    Usage,
    WarmedPrefix,
    check_messages,
)
from llm_service.schema import check_json_schema
from serving.errors import MaifsError, Reason


class Engine:
    """One model that answers. For use on one event loop.

    Args:
        llm: a running vllm.v1.engine.async_llm.AsyncLLM.
        config: limits.
    """

    def __init__(self, llm: Any, config: LlmConfig) -> None:
        self._llm, self._config = llm, config
        self._admission = Admission(config.max_running_requests_count, config.max_queued_requests_count)

    @property
    def dead(self) -> bool:
        """Whether the engine's processes are gone."""
        return bool(self._llm.errored)

    def load(self) -> Load:
        """Work now."""
        return self._admission.load()

    async def generate(self, request: Generation) -> AsyncGenerator[Delta | Finish, None]:
        """Generates one answer; closing the iterator or cancelling its task aborts it in the engine.

        Yields:
            Deltas, not empty, then one Finish.

        Raises:
            MaifsError: INVALID_REQUEST, INVALID_JSON_SCHEMA, PROMPT_TOO_LONG, QUEUE_FULL, ENGINE_DEAD.
        """
        start = time.perf_counter()
        request.check(self._config.max_output_tokens_count)
        with self._admission.admit():
            if request.json_schema:
                await asyncio.to_thread(check_json_schema, request.json_schema)
            prompt = await self._render(request.messages, add_generation_prompt=True)
            parameters = _sampling(request, self._max_tokens(request, len(prompt["prompt_token_ids"])))
            output_tokens_count = 0
            async with aclosing(self._outputs(prompt, parameters, request.priority)) as outputs:
                async for output in outputs:
                    completion = output.outputs[0]
                    output_tokens_count += len(completion.token_ids)
                    if completion.text:
                        yield Delta(completion.text)
                    if output.finished:
                        finish = _finish(output, output_tokens_count, start)
                        self._admission.completed(output_tokens_count)
                        yield finish

    async def warm_prefix(self, messages: tuple[Message, ...]) -> WarmedPrefix:
        """Computes the KV cache of a conversation's beginning.

        Raises:
            MaifsError: PREFIX_CACHING_OFF, INVALID_REQUEST, PROMPT_TOO_LONG, QUEUE_FULL, ENGINE_DEAD.
        """
        if not self._config.prefix_caching:
            raise MaifsError(
                Reason.PREFIX_CACHING_OFF,
                "This service runs without prefix caching.",
                "Set prefix_caching = true, or skip the warm-up.",
            )
        start = time.perf_counter()
        check_messages(messages)
        with self._admission.admit():
            prompt = await self._render(messages, add_generation_prompt=False)
            prompt_tokens_count = len(prompt["prompt_token_ids"])
            self._check_room(prompt_tokens_count, 1)
            parameters = _sampling(Generation(messages), 1)
            cached = 0
            async with aclosing(self._outputs(prompt, parameters, 0)) as outputs:
                async for output in outputs:
                    cached = output.num_cached_tokens or 0
        return WarmedPrefix(prompt_tokens_count, cached, time.perf_counter() - start)

    def _max_tokens(self, request: Generation, prompt_tokens_count: int) -> int:
        if request.max_tokens_count:
            self._check_room(prompt_tokens_count, request.max_tokens_count)
            return request.max_tokens_count
        self._check_room(prompt_tokens_count, 1)
        room = self._config.max_model_len_tokens_count - prompt_tokens_count
        return min(self._config.default_output_tokens_count, room)

    def _check_room(self, prompt_tokens_count: int, max_tokens_count: int) -> None:
        limit = self._config.max_model_len_tokens_count
        if prompt_tokens_count + max_tokens_count > limit:
            raise MaifsError(
                Reason.PROMPT_TOO_LONG,
                f"The prompt has {prompt_tokens_count:,} tokens; with {max_tokens_count:,} for the answer that is more "
                f"than the {limit:,} of prompt and answer together.",
                "Shorten the prompt or ask for fewer tokens.",
            )

    async def _render(self, messages: tuple[Message, ...], *, add_generation_prompt: bool) -> dict[str, Any]:
        """The conversation as the engine's input, through the model's chat template."""
        from vllm.renderers import ChatParams

        renderer = self._llm.renderer
        self._check_characters(messages, int(getattr(renderer.tokenizer, "max_chars_per_token", 0)))
        conversation = [{"role": message.role.value, "content": message.content} for message in messages]
        chat = ChatParams(chat_template_kwargs={"add_generation_prompt": add_generation_prompt})
        # Without vLLM's own limit, whose message does not count the tokens of a prompt that is too long.
        tokens = dataclasses.replace(renderer.default_chat_tok_params, max_total_tokens=None)
        try:
            _, prompts = await renderer.render_chat_async([conversation], chat, tokens)
        except Exception as error:
            raise MaifsError(
                Reason.INVALID_REQUEST,
                f"The model's chat template cannot render these messages: {' '.join(str(error).split())[:300]}.",
            ) from error
        prompt: dict[str, Any] = prompts[0]
        return prompt

    def _check_characters(self, messages: tuple[Message, ...], max_chars_per_token: int) -> None:
        """Refuses a text that cannot fit however it is tokenised, before the work of tokenising it."""
        limit = self._config.max_model_len_tokens_count
        characters = sum(len(message.content) for message in messages)
        if max_chars_per_token and characters > limit * max_chars_per_token:
            raise MaifsError(
                Reason.PROMPT_TOO_LONG,
                f"The messages have {characters:,} characters; {limit:,} tokens, the limit of prompt and answer "
                f"together, hold at most {limit * max_chars_per_token:,}.",
                "Shorten the prompt.",
            )

    async def _outputs(self, prompt: dict[str, Any], parameters: Any, priority: int) -> AsyncGenerator[Any, None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            stream = self._llm.generate(prompt, parameters, uuid.uuid4().hex, priority=priority)
            async with aclosing(stream):
                async for output in stream:
                    yield output
        except EngineDeadError as error:
            raise engine_dead() from error


def engine_dead() -> MaifsError:
    """The engine's processes are gone."""
    return MaifsError(
        Reason.ENGINE_DEAD,
        "The engine has died; the service ends and its supervisor starts it again.",
        "Send the request again when the service is healthy.",
    )


def _sampling(request: Generation, max_tokens_count: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        temperature=request.temperature,
        top_p=request.top_p if request.temperature > 0 else 1.0,
        seed=request.seed,
        max_tokens=max_tokens_count,
        stop=list(request.stop) or None,
        structured_outputs=StructuredOutputsParams(json=request.json_schema) if request.json_schema else None,
        output_kind=RequestOutputKind.DELTA,
    )


def _finish(output: Any, output_tokens_count: int, start: float) -> Finish:
    reason = output.outputs[0].finish_reason
    if reason not in set(FinishReason):
        raise MaifsError(Reason.INTERNAL, f"The engine ended the request with {reason!r}.", "See its log.")
    usage = Usage(len(output.prompt_token_ids), output.num_cached_tokens or 0, output_tokens_count)
    return Finish(FinishReason(reason), usage, _timings_s(output.metrics, time.perf_counter() - start))


def _timings_s(stats: Any, total_s: float) -> dict[str, float]:
    """Phases from the engine's own clock (vllm.v1.metrics.stats.RequestStateStats, seconds)."""
    return {
        "queue": max(0.0, stats.scheduled_ts - stats.queued_ts),
        "prefill": max(0.0, stats.first_token_ts - stats.scheduled_ts),
        "decode": max(0.0, stats.last_token_ts - stats.first_token_ts),
        "total": total_s,
    }
