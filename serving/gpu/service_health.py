"""Whether the services answer: the health service behind each unit's socket."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.address import socket_path
from serving.gpu.units import Unit

CONFIG = Path("/etc/maifs/maifs.toml")
_TIMEOUT_S = 3.0


class Health(StrEnum):
    """What a service answered."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    SILENT = "no answer"
    FORBIDDEN = "not for this user"


def address_of(unit: Unit, config: Path = CONFIG) -> str:
    """Where a unit's service listens: the instance's own socket, else environment, settings file, default."""
    section, _, instance = unit.name.removeprefix("maifs-").removesuffix(".service").partition("@")
    if instance:
        return f"unix:/run/maifs/{section}-{instance}.sock"
    given = unit.environment.get(f"MAIFS_{section.upper()}_SERVER_ADDRESS") or _configured(config, section)
    return given or f"unix:/run/maifs/{section}.sock"


def _configured(config: Path, section: str) -> str:
    try:
        table = tomllib.loads(config.read_text("utf-8"))
        return str(table[section]["server"]["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def ask(address: str, timeout_s: float = _TIMEOUT_S) -> Health:
    """Asks the health service at an address once."""
    path = socket_path(address)
    try:
        if path and not path.is_socket():
            return Health.SILENT
    except PermissionError:
        return Health.FORBIDDEN
    with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=False).status
        except grpc.RpcError as error:
            refused = "permission denied" in str(error).lower()
            return Health.FORBIDDEN if refused else Health.SILENT
    return Health.SERVING if status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_SERVING
