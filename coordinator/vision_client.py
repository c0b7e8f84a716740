"""The coordinator's side of the vision service: one stream for each picture on one long-lived channel.

A stream of its own gives every picture its own deadline, cancellation, flow control and request id, and a broken
stream takes no neighbour with it; HTTP/2 multiplexes them over one connection, so an extra stream costs a round trip
of headers and no connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from functools import cached_property

import grpc

from coordinator.backends.backend import digest_of
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving.channel import CHUNK_BYTES, INLINE_BYTES, open_channel
from serving.channel_security import ChannelSecurity
from serving.encoded import Encoded
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error, from_status

RETRY_AFTER_S = 2.0
"""Delay that a client is told when the vision service cannot be reached."""

_INFO_TIMEOUT_S = 5.0
_ITEM_ID = "picture"  # one item a stream: any name will do


@dataclass(frozen=True)
class Picture:
    """A complete encoded file as the client sent it."""

    file: bytes | Encoded
    file_name: str
    sha256: bytes = b""
    """Digest that the client announced; empty when it announced none."""

    @cached_property
    def encoded(self) -> Encoded:
        """The file."""
        return self.file if isinstance(self.file, Encoded) else Encoded(self.file)


VisionEvent = finding_pb2.ToolResult | vision_pb2.VisionResult


class VisionClient:
    """Calls to the vision service at one address."""

    def __init__(self, address: str, security: ChannelSecurity | None = None) -> None:
        self.address = address
        self.channel = open_channel(address, security)
        self._stub: vision_pb2_grpc.VisionServiceAsyncStub = vision_pb2_grpc.VisionServiceStub(self.channel)
        self._peer = f"The vision service at {address}"

    async def analyze(self, picture: Picture, timeout_s: float) -> AsyncIterator[VisionEvent]:
        """Sends the file in chunks of 1 MiB and yields what comes back meanwhile: tool results, then the result.

        Raises:
            MaifsError: the item's own error as the service put it; BACKEND_UNAVAILABLE, with a time to wait, when the
                service cannot be reached, stops or hangs up; DEADLINE_EXCEEDED; BACKEND_FAILED when the stream ends
                without a result.
        """
        call = self._stub.AnalyzeStream(_steps(picture), timeout=timeout_s, metadata=outgoing_metadata())
        try:
            async for response in call:
                event = response.WhichOneof("event")
                if event == "tool_result":
                    yield response.tool_result
                elif event == "result":
                    yield response.result
                    return
                elif event == "error":
                    raise self._explained(from_status(response.error), timeout_s)
        except grpc.aio.AioRpcError as error:
            raise self._explained(from_rpc_error(error, self._peer), timeout_s) from error
        finally:
            call.cancel()  # no effect on a call that has ended
        raise MaifsError(Reason.BACKEND_FAILED, f"{self._peer} ended the stream without a result.")

    def _explained(self, error: MaifsError, timeout_s: float) -> MaifsError:
        if error.reason is Reason.DEADLINE_EXCEEDED:
            return MaifsError(
                Reason.DEADLINE_EXCEEDED,
                f"{self._peer} did not finish the picture within {timeout_s:.0f} s.",
                "Raise item_timeout_s or the call's deadline, or send a smaller picture.",
            )
        # CANCELLED: nobody here cancelled the call, so the server did, on its way out.
        if error.reason is Reason.CANCELLED or error.reason.code is grpc.StatusCode.UNAVAILABLE:
            return MaifsError(
                Reason.BACKEND_UNAVAILABLE,
                f"{self._peer} is not available: {error.message}",
                "See that it runs (coordinator-cli status), then send the picture again.",
                retry_after_s=max(error.retry_after_s, RETRY_AFTER_S),
            )
        return error

    async def identify(self) -> str:
        """See coordinator.backends.backend.Client."""
        try:
            told = await self.describe(_INFO_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            raise self._explained(from_rpc_error(error, self._peer), _INFO_TIMEOUT_S) from error
        told.device = told.device.partition(":")[0]  # which GPU it is changes nothing
        told.ClearField("gpu_pin")
        told.ClearField("limits")
        return f"vision {told.service_version} {told.calibration_id} {digest_of(told)}"

    async def probe(self) -> None:
        """See coordinator.backends.backend.Client."""
        await self.identify()

    async def describe(self, timeout_s: float) -> vision_pb2.ListToolsResponse:
        """Tools, limits and device. Raises grpc.aio.AioRpcError."""
        return await self._stub.ListTools(
            vision_pb2.ListToolsRequest(), timeout=timeout_s, metadata=outgoing_metadata()
        )

    async def close(self) -> None:
        """Closes the channel; calls in progress are cancelled."""
        await self.channel.close()


async def _steps(picture: Picture) -> AsyncIterator[vision_pb2.AnalyzeStreamRequest]:
    request = vision_pb2.AnalyzeStreamRequest
    begin = request(item_id=_ITEM_ID)
    begin.begin.size_bytes, begin.begin.sha256 = len(picture.encoded), picture.sha256
    begin.begin.file_name = picture.file_name
    offset = 0
    for piece in picture.encoded.pieces():
        for data in _chunks(piece):
            if not offset:
                begin.begin.data = data
                yield begin
            else:
                chunk = request(item_id=_ITEM_ID)
                chunk.chunk.offset_bytes, chunk.chunk.data = offset, data
                yield chunk
            offset += len(data)
    yield request(item_id=_ITEM_ID, end=image_pb2.EndItem())


def _chunks(piece: bytes) -> Iterable[bytes]:
    """The piece itself where it is small enough for a message."""
    if len(piece) <= INLINE_BYTES:
        return (piece,)
    return (piece[start : start + CHUNK_BYTES] for start in range(0, len(piece), CHUNK_BYTES))
