"""What the backends say of themselves, asked at the moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.backends.backend import Backend, C
from coordinator.convert import TOOL_NAMES
from coordinator.llm_client import LlmClient
from coordinator.vision_client import VisionClient
from maifs.common.v1 import gpu_pb2
from maifs.coordinator.v1 import coordinator_pb2
from maifs.llm.v1 import llm_pb2
from maifs.vision.v1 import vision_pb2
from serving.status import from_rpc_error

PING_TIMEOUT_S = 3.0
"""Time that a backend has to answer; what is hung counts as unreachable."""

Description = tuple[str, list[str], gpu_pb2.GpuPin]
"""What it runs, its devices, and what keeps it on them."""


async def vision_status(backend: Backend[VisionClient]) -> coordinator_pb2.BackendStatus:
    """State of a vision service."""
    client = backend.client

    async def describe() -> Description:
        response: vision_pb2.ListToolsResponse = await client.describe(PING_TIMEOUT_S)
        tools = ", ".join(f"{TOOL_NAMES.get(tool.tool, 'unknown')} {tool.version}" for tool in response.tools)
        text = f"{tools}; calibration {response.calibration_id}; service {response.service_version}"
        return text, [response.device], response.gpu_pin

    return await _status("vision", backend, "maifs.vision.v1.VisionService", describe)


def llm_disabled() -> coordinator_pb2.BackendStatus:
    """What is told of the language-model service when none is configured."""
    return coordinator_pb2.BackendStatus(
        name="llm",
        state=coordinator_pb2.BACKEND_STATE_DISABLED,
        reason="llm_address is empty: the rules write every explanation",
    )


async def llm_status(backend: Backend[LlmClient]) -> coordinator_pb2.BackendStatus:
    """State of a language-model service."""
    client = backend.client

    async def describe() -> Description:
        return _describe_model(await client.info(PING_TIMEOUT_S))

    return await _status("llm", backend, "maifs.llm.v1.LlmService", describe)


def _describe_model(info: llm_pb2.GetModelInfoResponse) -> Description:
    layout = info.layout
    parts = [
        f"{info.model} ({info.architecture}, {info.dtype}{', ' + info.quantization if info.quantization else ''})",
        f"TP {layout.tensor_parallel_size} x PP {layout.pipeline_parallel_size}",
        f"context {info.limits.max_model_len_tokens_count} tokens",
        f"{info.load.active_requests_count} active",
        info.engine_version,
    ]
    return "; ".join(part for part in parts if part), list(layout.devices), info.gpu_pin


async def _status(
    name: str, backend: Backend[C], service: str, describe: Callable[[], Awaitable[Description]]
) -> coordinator_pb2.BackendStatus:
    status = coordinator_pb2.BackendStatus(
        name=name,
        address=backend.address,
        open_calls_count=backend.open_calls,
        max_open_calls_count=backend.capacity,
    )
    health: Any = health_pb2_grpc.HealthStub(backend.client.channel)
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(service=service), timeout=PING_TIMEOUT_S)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            status.state = coordinator_pb2.BACKEND_STATE_NOT_SERVING
            status.reason = "it says NOT_SERVING: it is starting or draining"
            return status
        text, devices, pin = await describe()
    except grpc.aio.AioRpcError as error:
        status.state = coordinator_pb2.BACKEND_STATE_UNREACHABLE
        status.reason = from_rpc_error(error, f"{name} at {backend.address}").message
        return status
    suspended, serving = coordinator_pb2.BACKEND_STATE_SUSPENDED, coordinator_pb2.BACKEND_STATE_SERVING
    status.state = suspended if backend.suspended else serving
    status.reason = backend.suspended
    status.description = text
    status.devices.extend(devices)
    status.gpu_pin.CopyFrom(pin)
    return status
