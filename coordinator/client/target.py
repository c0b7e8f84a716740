"""Which coordinator to use: a named one, the one of this host, or services of our own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.address import socket_path
from serving.channel import open_channel
from serving.errors import MaifsError, Reason
from serving.requests import outgoing_metadata
from serving.status import from_rpc_error

ADDRESS_VARIABLE = "MAIFS_ADDRESS"
DEFAULT_ADDRESS = "unix:/run/maifs/coordinator.sock"
MODEL_VARIABLE = "MAIFS_LLM_MODEL"
DEVELOPMENT_MODEL = Path("models", "smollm2-135m-instruct")
"""Where `make model` puts the small model, below the working directory or the project."""

_READY_TIMEOUT_S = 5.0
_PROBE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Choice:
    """The coordinator to use."""

    address: str | None
    """None: start services of our own."""
    note: str = ""
    """What the user should know about the choice; may be empty."""


async def choose(address: str | None, environ: Mapping[str, str] = os.environ) -> Choice:
    """The address given, else MAIFS_ADDRESS, else this host's coordinator when it serves, else none.

    Raises:
        MaifsError: INVALID_CONFIG for what cannot be an address.
    """
    named = address or environ.get(ADDRESS_VARIABLE)
    if named:
        if ":" not in named:
            raise MaifsError(
                Reason.INVALID_CONFIG,
                f"{named!r} is not an address.",
                "Give unix:/path/to.sock or host:port.",
            )
        return Choice(named)
    path = socket_path(DEFAULT_ADDRESS)
    if path is None or not path.exists():
        return Choice(None)
    if await _answers(DEFAULT_ADDRESS):
        return Choice(DEFAULT_ADDRESS)
    return Choice(None, f"{DEFAULT_ADDRESS} exists, but nothing answers there or you may not use it.")


async def _answers(address: str) -> bool:
    async with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            await stub.Check(health_pb2.HealthCheckRequest(), timeout=_PROBE_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return False
        return True


async def status_of(
    stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub, address: str, *, patience_s: float = _READY_TIMEOUT_S
) -> coordinator_pb2.GetStatusResponse:
    """The coordinator's status; one that is still starting is given some time.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE when nothing answers at the address, or what the coordinator answered.
    """
    clock = asyncio.get_running_loop().time
    end = clock() + patience_s
    while True:
        try:
            request = coordinator_pb2.GetStatusRequest()
            return await stub.GetStatus(request, timeout=max(end - clock(), 1.0), metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or clock() >= end or _hopeless(address):
                raise _unreachable(address, from_rpc_error(error, f"The coordinator at {address}")) from error
            await asyncio.sleep(0.3)


def _hopeless(address: str) -> bool:
    path = socket_path(address)
    return path is not None and not path.exists()


def _unreachable(address: str, error: MaifsError) -> MaifsError:
    if error.reason not in {Reason.BACKEND_UNAVAILABLE, Reason.DEADLINE_EXCEEDED}:
        return error
    path = socket_path(address)
    cause = f"the socket {path} does not exist" if path and not path.exists() else error.message
    return MaifsError(
        Reason.BACKEND_UNAVAILABLE,
        f"No coordinator answers at {address}: {cause}.",
        f"Start the services, correct --address or {ADDRESS_VARIABLE}, or leave both out: `analyze` then starts "
        "services of its own.",
    )


def find_model(environ: Mapping[str, str] = os.environ) -> str:
    """The model for an LLM service of our own.

    Raises:
        MaifsError: MODEL_UNUSABLE when none is named and none was prepared.
    """
    if environ.get(MODEL_VARIABLE):
        return environ[MODEL_VARIABLE]
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / DEVELOPMENT_MODEL / "config.json").is_file():
            return str(root / DEVELOPMENT_MODEL)
    raise MaifsError(
        Reason.MODEL_UNUSABLE,
        f"There is no language model: {MODEL_VARIABLE} is not set and {DEVELOPMENT_MODEL} was not prepared.",
        f"Run `llm-service prepare-model --output {DEVELOPMENT_MODEL}` once, or set {MODEL_VARIABLE} to a model "
        "directory or name, or add --no-llm: the findings and the verdict do not need it.",
    )
