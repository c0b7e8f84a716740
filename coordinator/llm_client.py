"""The coordinator's side of the language-model service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.channel import open_channel
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error

_log = logging.getLogger(__name__)
_WARM_TIMEOUT_S = 60.0
_INFO_TIMEOUT_S = 5.0
_POLL_S = 0.2
_ABSENT_S = 20.0  # a process that is starting answers health long before this
_MAX_ANSWER_CHARACTERS = 65_536
_ROLES = {"system": llm_pb2.ROLE_SYSTEM, "user": llm_pb2.ROLE_USER, "assistant": llm_pb2.ROLE_ASSISTANT}


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    """"system", "user" or "assistant"."""
    content: str


@dataclass(frozen=True)
class Generation:
    """A finished answer."""

    text: str
    complete: bool
    """False when the token limit cut it off."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class LlmClient:
    """Calls to the language-model service at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = open_channel(address)
        self._stub: llm_pb2_grpc.LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(self.channel)
        self._peer = f"The language-model service at {address}"

    async def generate(
        self, messages: Sequence[Message], *, json_schema: str, max_tokens: int, timeout_s: float
    ) -> Generation:
        """One answer, greedy and therefore repeatable.

        Raises:
            MaifsError: what the service answered; BACKEND_UNAVAILABLE when it cannot be reached or dies on the way;
                DEADLINE_EXCEEDED; LLM_BAD_ANSWER when the stream ends without `finish` or floods.
        """
        request = llm_pb2.GenerateRequest(
            messages=_to_proto(messages), max_tokens_count=max_tokens, temperature=0.0, json_schema=json_schema
        )
        call = self._stub.Generate(request, timeout=timeout_s, metadata=outgoing_metadata())
        parts: list[str] = []
        length = 0
        try:
            async for response in call:
                if response.WhichOneof("event") == "finish":
                    return _generation("".join(parts), response.finish)
                parts.append(response.delta)
                length += len(response.delta)
                if length > _MAX_ANSWER_CHARACTERS:
                    raise MaifsError(Reason.LLM_BAD_ANSWER, f"{self._peer} sent more than {length:,} characters.")
        except grpc.aio.AioRpcError as error:
            raise self._explained(error, timeout_s) from error
        finally:
            call.cancel()
        raise MaifsError(Reason.LLM_BAD_ANSWER, f"{self._peer} ended its answer without `finish`.")

    async def warm(self, messages: Sequence[Message]) -> int:
        """Has the prefix of conversations to come cached; returns its tokens.

        Raises:
            MaifsError: what the service answered.
        """
        request = llm_pb2.WarmPrefixRequest(messages=_to_proto(messages))
        try:
            response = await self._stub.WarmPrefix(request, timeout=_WARM_TIMEOUT_S, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            raise self._explained(error, _WARM_TIMEOUT_S) from error
        return response.prompt_tokens_count

    async def model_name(self) -> str:
        """The model's name as configured there.

        Raises:
            MaifsError: what the service answered.
        """
        try:
            return (await self.info()).model
        except grpc.aio.AioRpcError as error:
            raise self._explained(error, _INFO_TIMEOUT_S) from error

    async def wait_ready(self, timeout_s: float) -> None:
        """Waits while the service says that it is loading.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE when it is not ready in time, or is not there at all for `_ABSENT_S`.
        """
        clock = asyncio.get_running_loop().time
        start = absent_since = clock()
        health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(self.channel)
        while clock() - start < timeout_s and clock() - absent_since < _ABSENT_S:
            try:
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=_INFO_TIMEOUT_S)
                absent_since = clock()
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.aio.AioRpcError:
                pass  # not yet, or not any more; `_ABSENT_S` tells them apart
            await asyncio.sleep(_POLL_S)
        message = f"{self._peer} was not ready after {clock() - start:.0f} s."
        raise MaifsError(Reason.BACKEND_UNAVAILABLE, message, "See that it runs (coordinator-cli status).")

    async def info(self, timeout_s: float = _INFO_TIMEOUT_S) -> llm_pb2.GetModelInfoResponse:
        """Model, layout and limits. Raises grpc.aio.AioRpcError."""
        return await self._stub.GetModelInfo(
            llm_pb2.GetModelInfoRequest(), timeout=timeout_s, metadata=outgoing_metadata()
        )

    def _explained(self, error: grpc.aio.AioRpcError, timeout_s: float) -> MaifsError:
        known = from_rpc_error(error, self._peer)
        if known.reason is Reason.DEADLINE_EXCEEDED:
            return MaifsError(Reason.DEADLINE_EXCEEDED, f"{self._peer} did not answer within {timeout_s:.1f} s.")
        # CANCELLED: nobody here cancelled the call, so the server did, on its way out.
        if known.reason is Reason.CANCELLED or known.reason.code is grpc.StatusCode.UNAVAILABLE:
            message = known.message if known.message.startswith(self._peer) else f"{self._peer}: {known.message}"
            return MaifsError(Reason.BACKEND_UNAVAILABLE, message, "See that it runs (coordinator-cli status).")
        return known

    async def close(self) -> None:
        """Closes the channel; calls in progress are cancelled."""
        await self.channel.close()


def _to_proto(messages: Sequence[Message]) -> list[llm_pb2.ChatMessage]:
    return [llm_pb2.ChatMessage(role=_ROLES[message.role], content=message.content) for message in messages]


def _generation(text: str, finish: llm_pb2.GenerateFinish) -> Generation:
    usage = finish.usage
    return Generation(
        text=text,
        complete=finish.reason == llm_pb2.FINISH_REASON_STOP,
        prompt_tokens=usage.prompt_tokens_count,
        cached_tokens=usage.cached_prompt_tokens_count,
        output_tokens=usage.output_tokens_count,
    )


class PrefixWarmer:
    """Keeps the prompt prefix in the language model's cache: warmed once, and again when there is a sign of its loss.

    Signs of loss: a call that failed because the service was gone, and an answer whose prompt was not found in the
    cache (a restarted service, or an evicted prefix).
    """

    def __init__(self, client: LlmClient, prefix: Sequence[Message]) -> None:
        self._client, self._prefix = client, tuple(prefix)
        self._task: asyncio.Task[float] | None = None
        self._warm = self._off = False
        self.calls = 0
        """Times that the prefix was sent."""

    def start(self) -> asyncio.Task[float] | None:
        """Begins to warm the prefix where it is not warm; does not wait.

        Returns:
            The task under way, whose result is the seconds it took (negative when it failed); None when it is warm.
        """
        if self._warm:
            return None
        if self._task is None or self._task.done():
            self.calls += 1
            self._task = asyncio.ensure_future(self._run())
        return self._task

    async def _run(self) -> float:
        clock = asyncio.get_running_loop().time
        start = clock()
        try:
            await self._client.warm(self._prefix)
        except MaifsError as error:
            if error.reason is not Reason.PREFIX_CACHING_OFF:
                _log.info("prefix not warmed", extra={"reason": error.reason.name, "detail": error.message})
                return -1.0
            self._off = True
        self._warm = True
        return clock() - start

    def learn(self, generation: Generation) -> None:
        """Takes note of whether an answer found the prefix in the cache."""
        if generation.prompt_tokens and not generation.cached_tokens and not self._off:
            self._warm = False

    def lost(self) -> None:
        """The service failed: what it had cached is gone."""
        self._warm = self._off = False

    async def close(self) -> None:
        """Ends a warming under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
