"""The coordinator's side of the vision service: one stream for each picture on one long-lived channel.

A stream of its own gives every picture its own deadline, cancellation, flow control and request id, and a broken
stream takes no neighbour with it; HTTP/2 multiplexes them over one connection, so an extra stream costs a round trip
of headers and no connection.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import grpc

from maifs.common.v1 import finding_pb2, image_pb2
from maifs.vision.v1 import vision_pb2, vision_pb2_grpc
from serving.channel import CHUNK_BYTES, open_channel
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

    data: bytes
    file_name: str
    sha256: bytes = b""
    """Digest that the client announced; empty when it announced none."""


VisionEvent = finding_pb2.ToolResult | vision_pb2.VisionResult


class VisionClient:
    """Calls to the vision service at one address."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.channel = open_channel(address)
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
        tools = " ".join(f"{tool.tool}:{tool.version}" for tool in told.tools)
        return f"vision {told.service_version} {tools} {told.calibration_id} {told.device.partition(':')[0]}"

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
    data = picture.data
    begin = image_pb2.BeginItem(
        size_bytes=len(data), sha256=picture.sha256, file_name=picture.file_name, data=data[:CHUNK_BYTES]
    )
    yield vision_pb2.AnalyzeStreamRequest(item_id=_ITEM_ID, begin=begin)
    for offset in range(CHUNK_BYTES, len(data), CHUNK_BYTES):
        chunk = image_pb2.ItemChunk(offset_bytes=offset, data=data[offset : offset + CHUNK_BYTES])
        yield vision_pb2.AnalyzeStreamRequest(item_id=_ITEM_ID, chunk=chunk)
    yield vision_pb2.AnalyzeStreamRequest(item_id=_ITEM_ID, end=image_pb2.EndItem())
