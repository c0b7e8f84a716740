"""The engine: conversations in, deltas out. Knows vLLM's AsyncLLM and no gRPC."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from typing import Any

from llm_service.adapters import LoadedAdapters
from llm_service.admission import Admission
from llm_service.config import LlmConfig
from llm_service.constraints import check_constraint
from llm_service.domain import Delta, EngineLoad, Finish, Load, WarmedPrefix
from llm_service.engine_load import SchedulerWatch
from llm_service.rendering import Rendering
from llm_service.requests import Generation, Message, check_messages
from llm_service.sampling import finish_of, sampling_parameters, token_logprobs
from serving.errors import MaifsError, Reason


class Engine:
    """One model that answers. For use on one event loop.

    Args:
        llm: a running vllm.v1.engine.async_llm.AsyncLLM.
        config: limits.
        adapters: LoRA adapters that it has loaded.
        on_step: see SchedulerWatch.
    """

    def __init__(self, llm: Any, config: LlmConfig, adapters: LoadedAdapters, on_step: Callable[[int], None]) -> None:
        self._llm, self._config, self._adapters = llm, config, adapters
        self._admission = Admission(config.max_running_requests_count, config.max_queued_requests_count)
        self._rendering = Rendering(llm, config)
        self._scheduler = SchedulerWatch(llm, on_step, keep_prometheus=bool(config.server.metrics.address))
        self._death_seen = asyncio.Event()

    @property
    def dead(self) -> bool:
        """Whether the engine's processes are gone."""
        return bool(self._llm.errored)

    async def wait_dead(self, poll_s: float) -> None:
        """Returns when the engine's processes are gone: at once when a request meets its end, else at the next look."""
        while not self.dead:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._death_seen.wait(), poll_s)

    async def ping(self) -> None:
        """Returns once the loop of the engine's process has answered; does not return while that hangs."""
        if not self.dead:
            await self._llm.is_sleeping()

    @property
    def adapters(self) -> Sequence[str]:
        """Names of the LoRA adapters."""
        return self._adapters.names

    @property
    def max_images_count(self) -> int:
        """Most pictures in a request; 0 for a model that takes text alone."""
        return self._rendering.max_images_count

    def load(self) -> Load:
        """Work now, as admission counts it."""
        return self._admission.load()

    def engine_load(self) -> EngineLoad:
        """Work in the engine after its latest step."""
        return self._scheduler.load

    async def generate(self, request: Generation) -> AsyncGenerator[Delta | Finish, None]:
        """Generates one answer; closing the iterator or cancelling its task aborts it in the engine.

        Yields:
            Deltas with text, or with log-probabilities when they were asked for, then one Finish.

        Raises:
            MaifsError: INVALID_REQUEST, INVALID_JSON_SCHEMA, INVALID_CONSTRAINT, UNKNOWN_ADAPTER, PROMPT_TOO_LONG,
                IMAGES_NOT_SUPPORTED, those of decode_image, QUEUE_FULL, ENGINE_DEAD.
        """
        start = time.perf_counter()
        request.check(self._config.max_output_tokens_count)
        adapter = self._adapters.get(request.adapter)
        with self._admission.admit():
            if request.constraint.given:
                await asyncio.to_thread(check_constraint, request.constraint)
            prompt = await self._rendering.prompt(request.messages, add_generation_prompt=True)
            parameters = sampling_parameters(request, self._max_tokens(request, prompt))
            tokens_count = 0
            async with aclosing(self._outputs(prompt, parameters, request.priority, adapter)) as outputs:
                async for output in outputs:
                    completion = output.outputs[0]
                    tokens_count += len(completion.token_ids)
                    logprobs = token_logprobs(completion, request.top_logprobs_count)
                    if completion.text or logprobs:
                        yield Delta(completion.text, logprobs)
                    if output.finished:
                        finish = finish_of(request, output, tokens_count, time.perf_counter() - start)
                        self._admission.completed(tokens_count)
                        yield finish

    async def warm_prefix(self, messages: tuple[Message, ...], adapter_name: str = "") -> WarmedPrefix:
        """Computes the KV cache of a conversation's beginning.

        Raises:
            MaifsError: PREFIX_CACHING_OFF, INVALID_REQUEST, UNKNOWN_ADAPTER, PROMPT_TOO_LONG, IMAGES_NOT_SUPPORTED,
                those of decode_image, QUEUE_FULL, ENGINE_DEAD.
        """
        if not self._config.prefix_caching:
            raise MaifsError(
                Reason.PREFIX_CACHING_OFF,
                "This service runs without prefix caching.",
                "Set prefix_caching = true, or skip the warm-up.",
            )
        start = time.perf_counter()
        check_messages(messages)
        adapter = self._adapters.get(adapter_name)
        with self._admission.admit():
            prompt = await self._rendering.prompt(messages, add_generation_prompt=False)
            self._rendering.check_room(prompt, 1)
            cached = 0
            parameters = sampling_parameters(Generation(messages), 1)
            async with aclosing(self._outputs(prompt, parameters, 0, adapter)) as outputs:
                async for output in outputs:
                    cached = output.num_cached_tokens or 0
        return WarmedPrefix(len(prompt["prompt_token_ids"]), cached, time.perf_counter() - start)

    def _max_tokens(self, request: Generation, prompt: dict[str, Any]) -> int:
        if request.max_tokens_count:
            self._rendering.check_room(prompt, request.max_tokens_count)
            return request.max_tokens_count
        self._rendering.check_room(prompt, 1)
        room = self._config.max_model_len_tokens_count - len(prompt["prompt_token_ids"])
        return min(self._config.default_output_tokens_count, room)

    async def _outputs(
        self, prompt: dict[str, Any], parameters: Any, priority: int, adapter: Any
    ) -> AsyncGenerator[Any, None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            stream = self._llm.generate(prompt, parameters, uuid.uuid4().hex, priority=priority, lora_request=adapter)
            async with aclosing(stream):
                async for output in stream:
                    yield output
        except EngineDeadError as error:
            self._death_seen.set()
            raise engine_dead() from error


def engine_dead() -> MaifsError:
    """The engine's processes are gone."""
    return MaifsError(
        Reason.ENGINE_DEAD,
        "The engine has died; the service ends and its supervisor starts it again.",
        "Send the request again when the service is healthy.",
    )
