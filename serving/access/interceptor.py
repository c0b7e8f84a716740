"""Access control of a server: lets calls in, or refuses them before a message of theirs is read."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from serving.access.caller import current_caller
from serving.access.gate import Gate
from serving.around import Around
from serving.errors import MaifsError

_HEALTH = "/grpc.health.v1.Health/"


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Sets the caller of each call; to be put inside the interceptor that turns MaifsError into a status."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._identified = Around(self._identify, skip=(_HEALTH,))

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        method = str(handler_call_details.method)
        if method.startswith(_HEALTH):
            handler = await continuation(handler_call_details)
            return handler and self._health(method, handler)
        try:
            self._gate.refuse_strangers(handler_call_details.invocation_metadata)
        except MaifsError as error:
            return _refusal(error)
        return await self._identified.intercept_service(continuation, handler_call_details)

    @contextmanager
    def _identify(self, method: str, context: Any) -> Iterator[None]:
        current_caller.set(self._gate.caller(context.invocation_metadata() or (), context.auth_context()))
        yield

    def _health(self, method: str, handler: Any) -> Any:
        """Probes know no token: the health of the whole is everybody's, of its parts the clients'."""
        check, watch = handler.unary_unary, handler.unary_stream

        def enter(request: Any, context: Any) -> None:
            if request.service or watch:
                current_caller.set(self._gate.caller(context.invocation_metadata() or (), context.auth_context()))
            self._gate.check_health(request.service)

        async def checked(request: Any, context: Any) -> Any:
            enter(request, context)
            return await check(request, context)

        async def watched(request: Any, context: Any) -> AsyncIterator[Any]:
            enter(request, context)
            await watch(request, context)  # writes to the context itself
            for nothing in tuple[bytes]():  # makes it the stream that the other interceptors expect
                yield nothing

        if watch:
            return grpc.unary_stream_rpc_method_handler(
                watched, handler.request_deserializer, handler.response_serializer
            )
        return grpc.unary_unary_rpc_method_handler(checked, handler.request_deserializer, handler.response_serializer)


def _refusal(error: MaifsError) -> Any:
    """A handler for any kind of method that reads nothing."""

    async def refuse(requests: Any, context: Any) -> AsyncIterator[bytes]:
        for nothing in tuple[bytes]():  # makes it the stream that grpc expects
            yield nothing
        raise error

    return grpc.stream_stream_rpc_method_handler(refuse)
