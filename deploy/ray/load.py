"""How much work the coordinator has for the services behind it, for autoscaling."""

from __future__ import annotations

from deploy.ray.process import Role
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from serving.channel_security import ChannelSecurity

_TIMEOUT_S = 5.0


async def items_of(address: str, security: ChannelSecurity) -> dict[Role, float]:
    """Items by role: those that are with its replicas, and those that wait for them.

    What the journal holds counts for vision, the stage that every item begins with.

    Raises:
        grpc.aio.AioRpcError: when the coordinator does not answer.
    """
    async with open_channel(address, security) as channel:
        stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        status = await stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=_TIMEOUT_S)
    items: dict[Role, float] = {"vision": status.waiting_items_count + status.queued_batch_items_count, "llm": 0.0}
    for backend in status.backends:
        role: Role = "llm" if backend.name == "llm" else "vision"
        items[role] += backend.open_calls_count
    return items
