"""Server interceptor: request ids in, errors out, every call logged once."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from serving.access.audit import audit, who
from serving.around import QUIET, rewrapped
from serving.errors import MaifsError, Reason
from serving.requests import current_request_id, request_id_from
from serving.status import abort
from serving.wire import unreadable

_log = logging.getLogger(__name__)


class ServiceInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler: sets the request id, turns MaifsError into a status with ErrorInfo, logs the outcome."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """See grpc.aio.ServerInterceptor."""
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None:
            return handler
        read = handler.request_deserializer if handler.request_streaming else _forgiving(handler.request_deserializer)
        return rewrapped(handler, method, _wrap_unary, _wrap_stream, read)


def _forgiving(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Reads a request; for one that cannot be read gives the error in its place, where gRPC would answer INTERNAL."""

    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError:
            return unreadable(deserialize.__self__, data)  # type: ignore[attr-defined]

    return read


def _readable(request: Any) -> Any:
    if isinstance(request, MaifsError):
        raise request
    return request


def _wrap_unary(inner: Callable[[Any, Any], Awaitable[Any]], method: str) -> Callable[[Any, Any], Awaitable[Any]]:
    async def call(request: Any, context: Any) -> Any:
        async with _Guard(method, context):
            return await inner(_readable(request), context)

    return call


def _wrap_stream(
    inner: Callable[[Any, Any], AsyncIterator[Any]], method: str
) -> Callable[[Any, Any], AsyncIterator[Any]]:
    async def call(request: Any, context: Any) -> AsyncIterator[Any]:
        async with _Guard(method, context):
            responses = inner(_readable(request), context)
            if inspect.isawaitable(responses):  # writes to the context itself, as grpc's own health service does
                await responses
                return
            async for response in responses:
                yield response

    return call


class _Guard:
    """What happens around one call."""

    def __init__(self, method: str, context: Any) -> None:
        self._method, self._context = method, context

    async def __aenter__(self) -> None:
        self._start = time.perf_counter()
        current_request_id.set(request_id_from(self._context.invocation_metadata()))

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> bool:
        if kind is not None and issubclass(kind, GeneratorExit):
            return False
        known = _as_maifs_error(error)
        self._log_end(error, known)
        if known is not None:
            await abort(self._context, known)
        return False

    def _log_end(self, error: BaseException | None, known: MaifsError | None) -> None:
        if known is None and self._method.startswith(QUIET):
            return
        outcome = "OK" if error is None else known.reason.name if known else type(error).__name__
        seconds = round(time.perf_counter() - self._start, 4)
        extra = {"method": self._method, "outcome": outcome, "seconds": seconds, **who(self._context)}
        audit(extra)
        unexpected = known is not None and known.reason is Reason.INTERNAL
        _log.log(
            logging.ERROR if unexpected else logging.INFO, "call", extra=extra, exc_info=error if unexpected else None
        )


def _as_maifs_error(error: BaseException | None) -> MaifsError | None:
    """The error to answer with; None where gRPC itself ends the call (success, cancellation, an abort under way)."""
    if error is None or isinstance(error, asyncio.CancelledError | grpc.aio.AbortError):
        return None
    if isinstance(error, MaifsError):
        return error
    if isinstance(error, Exception):
        return MaifsError(Reason.INTERNAL, f"The service failed unexpectedly: {type(error).__name__}.", "See its log.")
    return None
