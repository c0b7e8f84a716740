"""The coordinator's side of the language-model service."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import grpc

from coordinator.backends.backend import Backend, digest_of
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.channel import open_channel
from serving.channel_security import ChannelSecurity
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error
from serving.tracing import span

_log = logging.getLogger(__name__)
_WARM_TIMEOUT_S = 60.0
_INFO_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 10.0
SILENCE_S = 15.0
"""A model at work brings some token to somebody in far less."""
_MAX_ANSWER_CHARACTERS = 65_536
_DELTA_INTERVAL_S = 1.0  # a message for every token would cost more than the rest of a picture, none the sign of life
_ROLES = {"system": llm_pb2.ROLE_SYSTEM, "user": llm_pb2.ROLE_USER, "assistant": llm_pb2.ROLE_ASSISTANT}


@dataclass(frozen=True)
class Message:
    """One message of a conversation."""

    role: str
    """"system", "user" or "assistant"."""
    content: str
    images: tuple[bytes, ...] = ()
    """Encoded pictures, for a model that takes them."""


@dataclass(frozen=True)
class Generation:
    """A finished answer."""

    text: str
    complete: bool
    """False when the token limit cut it off."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


class _SilentError(MaifsError):
    """Not even a question that needs no work was answered in all the time that there is for it."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.DEADLINE_EXCEEDED, message)


class LlmClient:
    """Calls to the language-model service at one address."""

    def __init__(self, address: str, security: ChannelSecurity | None = None) -> None:
        self.address = address
        self.channel = open_channel(address, security)
        self._stub: llm_pb2_grpc.LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(self.channel)
        self._peer = f"The language-model service at {address}"
        self._model: llm_pb2.GetModelInfoResponse | None = None
        self.last_progress = 0.0
        """Moment by the event loop's clock at which a call last brought something."""

    async def generate(
        self, messages: Sequence[Message], *, json_schema: str, max_tokens: int, timeout_s: float, priority: int = 0
    ) -> Generation:
        """One answer, greedy and therefore repeatable.

        Raises:
            MaifsError: what the service answered; BACKEND_UNAVAILABLE when it cannot be reached or dies on the way;
                DEADLINE_EXCEEDED; LLM_BAD_ANSWER when the stream ends without `finish` or floods.
        """
        request = llm_pb2.GenerateRequest(
            messages=_to_proto(messages),
            max_tokens_count=max_tokens,
            temperature=0.0,
            json_schema=json_schema,
            priority=priority,
            delta_interval_seconds=_DELTA_INTERVAL_S,
        )
        clock = asyncio.get_running_loop().time
        with span("language model", "CLIENT"):
            call = self._stub.Generate(request, timeout=timeout_s, metadata=outgoing_metadata())
            parts: list[str] = []
            length = 0
            try:
                async for response in call:
                    self.last_progress = clock()
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

    async def model(self) -> llm_pb2.GetModelInfoResponse:
        """What runs there, as it said last.

        Raises:
            MaifsError: what the service answered.
        """
        if self._model is None:
            try:
                self._model = await self.info()
            except grpc.aio.AioRpcError as error:
                known = self._explained(error, _INFO_TIMEOUT_S)
                raise _SilentError(known.message) if known.reason is Reason.DEADLINE_EXCEEDED else known from error
        return self._model

    @property
    def takes_images(self) -> bool:
        """Whether the model was heard to take pictures."""
        return self._model is not None and self._model.limits.max_images_count > 0

    def forget_model(self) -> None:
        """What comes back after a failure may be another model."""
        self._model = None

    async def identify(self) -> str:
        """See coordinator.backends.backend.Client."""
        self.forget_model()
        told = await self.model()
        steady = llm_pb2.GetModelInfoResponse()
        steady.CopyFrom(told)
        steady.ClearField("load")
        steady.ClearField("gpu_pin")
        return f"llm {told.model} {told.engine_version} {digest_of(steady)}"

    async def probe(self) -> None:
        """See coordinator.backends.backend.Client: one token, so that an engine that hangs does not pass."""
        question = Message("user", "Say yes.")
        await self.generate((question,), json_schema="", max_tokens=1, timeout_s=_PROBE_TIMEOUT_S)

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
    return [
        llm_pb2.ChatMessage(
            role=_ROLES[message.role],
            content=message.content,
            images=[llm_pb2.ImagePart(data=data) for data in message.images],
        )
        for message in messages
    ]


def _generation(text: str, finish: llm_pb2.GenerateFinish) -> Generation:
    usage = finish.usage
    return Generation(
        text=text,
        complete=finish.reason == llm_pb2.FINISH_REASON_STOP,
        prompt_tokens=usage.prompt_tokens_count,
        cached_tokens=usage.cached_prompt_tokens_count,
        output_tokens=usage.output_tokens_count,
    )


@contextmanager
def watched(backend: Backend[LlmClient], timeout_s: float) -> Iterator[None]:
    """Tells a backend how the call in the block ended.

    A call that ends without an answer, by its own time or because nobody waits any longer, counts as a timeout when the
    service had all the time that it may take, or brought nothing to anybody for `SILENCE_S`.

    Args:
        backend: that is called.
        timeout_s: time that it may take.
    """
    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        yield
    except (MaifsError, asyncio.CancelledError) as error:
        if isinstance(error, MaifsError):
            backend.failed(error)
            unanswered = error.reason is Reason.DEADLINE_EXCEEDED
        else:
            unanswered = True
        silent_s = clock() - max(start, backend.client.last_progress)
        had_its_time = isinstance(error, _SilentError) or clock() - start >= 0.99 * timeout_s
        if unanswered and (had_its_time or silent_s >= SILENCE_S):
            backend.timed_out()
        raise
    backend.succeeded()


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
