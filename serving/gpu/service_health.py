"""Whether the services answer: the health service behind each unit's socket."""

from __future__ import annotations

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving.address import socket_path
from serving.channel import open_blocking_channel
from serving.channel_security import ChannelSecurity
from serving.errors import MaifsError
from serving.gpu.units import Unit

CONFIG = Path("/etc/maifs/maifs.toml")
_TIMEOUT_S = 3.0


class Health(StrEnum):
    """What a service answered."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    SILENT = "no answer"
    FORBIDDEN = "not for this user"
    UNTRUSTED = "a certificate that is not trusted here"


def address_of(unit: Unit, config: Path = CONFIG) -> str:
    """Where a unit's service listens: the instance's own socket, else environment, settings file, default."""
    section, _, instance = unit.name.removeprefix("maifs-").removesuffix(".service").partition("@")
    if instance:
        return f"unix:/run/maifs/{section}-{instance}.sock"
    given = unit.environment.get(f"MAIFS_{section.upper()}_SERVER_ADDRESS") or _configured(config, section)
    return given or f"unix:/run/maifs/{section}.sock"


def security_of(unit: Unit, config: Path = CONFIG) -> ChannelSecurity:
    """How to call a unit's service on TCP: in the clear where its settings say so, else as MAIFS_CA_FILE and its like
    say.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    section = unit.name.removeprefix("maifs-").removesuffix(".service")
    told = unit.environment.get(f"MAIFS_{section.upper()}_SERVER_INSECURE") or _configured(config, section, "insecure")
    return ChannelSecurity(insecure=True) if told.lower() in {"true", "1"} else ChannelSecurity.from_environment()


def _configured(config: Path, section: str, name: str = "address") -> str:
    try:
        table = tomllib.loads(config.read_text("utf-8"))
        return str(table[section]["server"][name])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def health_of(unit: Unit) -> Health:
    """Asks the service of a unit once."""
    try:
        return ask(address_of(unit), security_of(unit))
    except MaifsError:
        return Health.UNTRUSTED


def ask(address: str, security: ChannelSecurity | None = None, timeout_s: float = _TIMEOUT_S) -> Health:
    """Asks the health service at an address once.

    Raises:
        MaifsError: INVALID_CONFIG for files of `security` that are no good.
    """
    path = socket_path(address)
    try:
        if path and not path.is_socket():
            return Health.SILENT
    except PermissionError:
        return Health.FORBIDDEN
    with open_blocking_channel(address, security) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        try:
            status = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=False).status
        except grpc.RpcError as error:
            told = str(error).lower()
            if "permission denied" in told:
                return Health.FORBIDDEN
            return Health.UNTRUSTED if "certificate_verify_failed" in told or "hostname" in told else Health.SILENT
    return Health.SERVING if status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_SERVING
