"""The tiny service as a process behind TLS and tokens."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.access.clients import digest_of, new_token
from serving.channel import open_blocking_channel
from serving.channel_security import ChannelSecurity
from tests.processes import ServiceProcess
from tests.serving.certificates import Authority, Pair

TINY = "tests.serving.tiny_service"
PATIENCE_S = 60.0


def free_address() -> str:
    """Loopback with a port that nobody listens on at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"localhost:{server.getsockname()[1]}"


def settings(**values: object) -> list[str]:
    """Arguments of the service: "server." and the name, in which __ stands for a dot."""
    return [part for k, v in values.items() for part in ("--set", f"server.{k.replace('__', '.')}={v}")]


def tls(pair: Pair, client_ca: Path | None = None) -> list[str]:
    """Arguments that give the listener its certificate."""
    given = {"tls__certificate_file": pair.certificate, "tls__key_file": pair.key}
    return settings(**given, **({"tls__client_ca_file": client_ca} if client_ca else {}))


@dataclass(frozen=True)
class Member:
    """A client with a token."""

    name: str
    token: str
    file: Path
    """With the token."""


def member(folder: Path, name: str) -> Member:
    """A new client; its file lies in the folder."""
    token = new_token()
    file = folder / f"{name}.token"
    file.write_text(token + "\n")
    return Member(name, token, file)


def entry(who: Member, **quota: object) -> str:
    """Its entry in a file of clients."""
    lines = [f"[clients.{who.name}]", f'token_sha256 = ["{digest_of(who.token)}"]']
    return "\n".join([*lines, *(f"{name} = {value}" for name, value in quota.items()), ""])


def ask(address: str, security: ChannelSecurity, timeout_s: float = 10.0) -> llm_pb2.GetModelInfoResponse:
    """One call on a connection of its own."""
    with open_blocking_channel(address, security) as channel:
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        return stub.GetModelInfo(llm_pb2.GetModelInfoRequest(), timeout=timeout_s)


def reason_of(call: Callable[[], object]) -> str:
    """The reason with which a call ends; "" for one that ends well."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_in(error)
    return ""


def reason_in(error: grpc.RpcError) -> str:
    """The reason that an error carries, else its code."""
    status = rpc_status.from_call(error)
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status else ():
        if detail.Unpack(info):
            return str(info.reason)
    return str(error.code().name)


def until(holds: Callable[[], bool], what: str) -> None:
    """Waits for something that comes soon on a quick machine."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end, f"not within {PATIENCE_S} s: {what}"
        time.sleep(0.05)


def serving(process: ServiceProcess, security: ChannelSecurity) -> ServiceProcess:
    """Waits until the service answers to such a client."""

    def answers() -> bool:
        assert process.process.poll() is None, process.log.read_text()
        with open_blocking_channel(process.address, security) as channel:
            try:
                status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2).status
            except grpc.RpcError:
                return False
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    until(answers, f"health; the log:\n{process.log.read_text()}")
    return process


def authority(folder: Path, name: str = "authority") -> Authority:
    """In a folder of its own, so that names do not meet."""
    (folder / name).mkdir()
    return Authority(folder / name, name)
