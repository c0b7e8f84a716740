"""A server interceptor that puts a context manager around every call: what counts and what traces calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import grpc

QUIET = ("/grpc.health.", "/grpc.reflection.")
"""Probes and descriptions of the service: neither counted nor traced, and logged only when they are refused or fail."""

Guard = Callable[[str, Any], AbstractContextManager[None]]
"""Makes a context manager of a method's full name and the call's grpc.aio.ServicerContext."""


class Around(grpc.aio.ServerInterceptor):
    """Runs each handler inside a guard's context manager.

    Args:
        guard: see Guard; it sees what the handler raises, an abort included.
        skip: beginnings of the methods that are left as they are.
    """

    def __init__(self, guard: Guard, skip: tuple[str, ...] = QUIET) -> None:
        self._guard, self._skip = guard, skip

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or method.startswith(self._skip):
            return handler
        return rewrapped(handler, method, self._unary, self._stream, handler.request_deserializer)

    def _unary(self, inner: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            with self._guard(method, context):
                return await inner(request, context)

        return call

    def _stream(
        self, inner: Callable[[Any, Any], AsyncIterator[Any]], method: str
    ) -> Callable[[Any, Any], AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            with self._guard(method, context):
                async for response in inner(request, context):
                    yield response

        return call


def rewrapped(
    handler: Any,
    method: str,
    unary: Callable[[Any, str], Any],
    stream: Callable[[Any, str], Any],
    deserialize: Callable[[bytes], Any] | None,
) -> Any:
    """A handler whose behaviour is wrapped.

    Args:
        handler: a grpc.RpcMethodHandler.
        method: its full name, for the wrappers.
        unary: wraps a behaviour that answers with one message.
        stream: wraps one that answers with a stream.
        deserialize: reads a request.
    """
    kind = f"{_word(handler.request_streaming)}_{_word(handler.response_streaming)}"
    wrap = stream if handler.response_streaming else unary
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    return make(wrap(getattr(handler, kind), method), deserialize, handler.response_serializer)


def _word(streaming: bool) -> str:
    return "stream" if streaming else "unary"
