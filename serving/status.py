"""Errors on the wire: MaifsError to google.rpc.Status and back (google/rpc/error_details.proto)."""

from __future__ import annotations

from collections.abc import Iterable

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from serving.errors import MaifsError, Reason

DOMAIN = "maifs"
_DETAILS_KEY = "grpc-status-details-bin"
_MESSAGE_LIMIT = 1024  # details above 8 KiB turn into RESOURCE_EXHAUSTED on the way


def to_status(error: MaifsError) -> status_pb2.Status:
    """A status with exactly one ErrorInfo and, where waiting helps, a RetryInfo."""
    code: int = error.reason.code.value[0]
    info = error_details_pb2.ErrorInfo(reason=error.reason.name, domain=DOMAIN)
    if error.advice:
        info.metadata["advice"] = error.advice[:_MESSAGE_LIMIT]
    status = status_pb2.Status(code=code, message=error.message[:_MESSAGE_LIMIT])
    status.details.append(_pack(info))
    if error.retry_after_s > 0:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        status.details.append(_pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.RetryInfo) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def from_status(status: status_pb2.Status) -> MaifsError:
    """The error that a status carries; BACKEND_FAILED when it carries none of ours."""
    reason, advice, retry_after_s = Reason.BACKEND_FAILED, "", 0.0
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            reason = Reason.__members__.get(info.reason, Reason.BACKEND_FAILED)
            advice = info.metadata.get("advice", "")
        elif detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    return MaifsError(reason, status.message, advice, retry_after_s=retry_after_s)


_TRANSPORT_REASONS = {
    grpc.StatusCode.UNAVAILABLE: Reason.BACKEND_UNAVAILABLE,
    # Our services say INTERNAL only with details. Without, it is the client library that lost the connection while it
    # was sending ("Internal error from Core"), or a stream that was reset.
    grpc.StatusCode.INTERNAL: Reason.BACKEND_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Reason.QUEUE_FULL,
}


def reason_in(metadata: Iterable[tuple[str, str | bytes]] | None) -> Reason | None:
    """The reason in the trailing metadata of a call; None where they carry none of ours."""
    for key, value in metadata or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value)).reason
    return None


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str) -> MaifsError:
    """What a failed call means to its caller.

    Args:
        error: as raised by a stub.
        peer: the service that was called, for the message, e.g. "the vision service at unix:/run/maifs/vision.sock".
    """
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code = error.code()
    reason = _TRANSPORT_REASONS.get(code, Reason.BACKEND_FAILED)
    return MaifsError(reason, f"{peer} answered {code.name}: {(error.details() or '')[:300]}")


async def abort(context: grpc.aio.ServicerContext[object, object], error: MaifsError) -> None:
    """Ends a call with this error; never returns normally."""
    status = to_status(error)
    await context.abort(error.reason.code, status.message, ((_DETAILS_KEY, status.SerializeToString()),))
