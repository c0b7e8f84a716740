"""TLS and mTLS of a listener: who gets in, who does not, and renewal while it serves."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.access.tls import TlsConfig, load_material
from serving.address import address_faults
from serving.channel import open_channel
from serving.channel_security import ChannelSecurity
from serving.errors import ExitCode, MaifsError, Reason
from tests.processes import ServiceProcess, socket_folder
from tests.serving.certificates import Authority, Pair
from tests.serving.guarded import TINY, ask, authority, free_address, reason_of, serving, tls, until


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


@dataclass(frozen=True)
class World:
    """A service with mTLS, and what its clients need."""

    service: ServiceProcess
    server_authority: Authority
    client_authority: Authority
    certificate: Pair
    client: Pair

    def security(self, **changes: object) -> ChannelSecurity:
        given = {
            "ca_file": self.server_authority.file,
            "certificate_file": self.client.certificate,
            "key_file": self.client.key,
        }
        return ChannelSecurity(**{**given, **changes})  # type: ignore[arg-type]

    def served_certificate(self) -> str:
        """What a connection that begins now is shown."""
        host, _, port = self.service.address.rpartition(":")
        return ssl.get_server_certificate((host, int(port)))

    def log(self) -> str:
        return self.service.log.read_text()


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[World]:
    with socket_folder() as folder:
        servers, clients = authority(folder, "servers"), authority(folder, "clients")
        certificate, client = servers.issue("one", "localhost"), clients.issue("alice")
        arguments = tls(certificate, clients.file)
        with ServiceProcess(TINY, free_address(), *arguments, log=folder / "log") as process:
            world = World(process, servers, clients, certificate, client)
            serving(process, world.security())
            yield world


def test_a_client_with_a_certificate_is_served_and_named_in_the_log(world: World) -> None:
    assert ask(world.service.address, world.security()).model
    assert '"client": "alice"' in world.log()


def test_a_client_without_a_certificate_is_not_let_in(world: World) -> None:
    security = world.security(certificate_file=None, key_file=None)
    assert reason_of(lambda: ask(world.service.address, security)) == "UNAVAILABLE"


def test_a_client_with_a_certificate_of_another_authority_is_not_let_in(world: World, folder: Path) -> None:
    stranger = authority(folder, "strangers").issue("mallory")
    security = world.security(certificate_file=stranger.certificate, key_file=stranger.key)
    assert reason_of(lambda: ask(world.service.address, security)) == "UNAVAILABLE"


def test_a_client_trusts_neither_another_authority_nor_another_name(world: World, folder: Path) -> None:
    other = authority(folder, "others")
    assert reason_of(lambda: ask(world.service.address, world.security(ca_file=other.file))) == "UNAVAILABLE"
    by_address = world.service.address.replace("localhost", "127.0.0.1")
    assert reason_of(lambda: ask(by_address, world.security())) == "UNAVAILABLE"
    assert ask(by_address, world.security(server_name="localhost")).model


def test_a_client_in_the_clear_is_not_let_in(world: World) -> None:
    security = ChannelSecurity(insecure=True)
    assert reason_of(lambda: ask(world.service.address, security)) == "UNAVAILABLE"


def test_a_renewed_certificate_is_shown_without_a_restart_and_a_broken_one_is_not(world: World) -> None:
    before = world.served_certificate()
    world.certificate.replace_by(world.server_authority.issue("two", "localhost"))
    until(lambda: world.served_certificate() != before, "the renewed certificate")
    renewed = world.served_certificate()
    assert ask(world.service.address, world.security()).model
    world.certificate.certificate.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    until(lambda: "the old ones stay in force" in world.log(), "a line in the log")
    assert world.served_certificate() == renewed
    assert ask(world.service.address, world.security()).model
    world.certificate.replace_by(world.server_authority.issue("three", "localhost"))
    until(lambda: world.served_certificate() != renewed, "the certificate after the broken one")


async def test_a_channel_that_is_open_takes_its_renewed_certificate(world: World, folder: Path) -> None:
    clients = world.client_authority
    own = clients.issue("bob-1")
    security = world.security(certificate_file=own.certificate, key_file=own.key)
    async with open_channel(world.service.address, security) as channel:
        stub = llm_pb2_grpc.LlmServiceStub(channel)

        async def call() -> None:
            await stub.GetModelInfo(llm_pb2.GetModelInfoRequest(), timeout=10)

        await call()
        assert '"client": "bob-1"' in world.log()
        own.replace_by(clients.issue("bob-2"))
        async with asyncio.timeout(60):
            while '"client": "bob-2"' not in world.log():
                await asyncio.sleep(0.2)
                await call()


def test_tcp_without_tls_does_not_start(folder: Path) -> None:
    with ServiceProcess(TINY, free_address(), log=folder / "log") as process:
        assert process.process.wait(60) == ExitCode.USAGE
        assert "TCP needs TLS" in (folder / "log").read_text()


@pytest.mark.parametrize(
    ("address", "tls_on", "insecure", "told"),
    [
        ("0.0.0.0:7700", True, False, ""),
        ("127.0.0.1:7700", False, True, ""),
        ("[::1]:7700", False, True, ""),
        ("unix:/run/x.sock", False, False, ""),
        ("127.0.0.1:7700", False, False, "--insecure"),
        ("0.0.0.0:7700", False, False, "needs TLS"),
        ("0.0.0.0:7700", False, True, "loopback alone"),
        ("[::]:7700", False, True, "loopback alone"),
        ("127.0.0.1:7700", True, True, "exclude"),
        ("unix:/run/x.sock", True, False, "for TCP"),
        ("unix:/run/x.sock", False, True, "for TCP"),
    ],
)
def test_addresses_and_their_protection(address: str, tls_on: bool, insecure: bool, told: str) -> None:
    faults = address_faults(address, tls=tls_on, insecure=insecure)
    assert told in "".join(faults)
    assert bool(faults) == bool(told)


def test_material_that_is_no_good_is_refused_with_the_file_and_the_cause(tmp_path: Path) -> None:
    signer = authority(tmp_path)
    good, other, old = signer.issue("a", "x"), signer.issue("b", "x"), signer.issue("old", "x", days=-2)
    assert load_material(TlsConfig(good.certificate, good.key, signer.file)).client_ca
    (tmp_path / "empty").write_bytes(b"")
    for config, told in (
        (TlsConfig(good.certificate, other.key), "not a certificate with its key"),
        (TlsConfig(tmp_path / "missing", good.key), "cannot be read"),
        (TlsConfig(old.certificate, old.key), "expired"),
        (TlsConfig(good.certificate, good.key, tmp_path / "empty"), "no certificates of authorities"),
    ):
        with pytest.raises(MaifsError, match=told) as caught:
            load_material(config)
        assert caught.value.reason is Reason.INVALID_CONFIG


@pytest.mark.parametrize(
    ("address", "security", "told"),
    [
        ("198.51.100.1:1", ChannelSecurity(insecure=True), "not on loopback"),
        ("127.0.0.1:1", ChannelSecurity(insecure=True, token_file=Path("/t")), "in the clear"),
        ("127.0.0.1:1", ChannelSecurity(ca_file=Path("/nowhere")), "cannot be read"),
        ("unix:/x", ChannelSecurity(token_file=Path("/nowhere")), "token file"),
    ],
)
def test_a_channel_that_would_give_something_away_is_not_opened(
    address: str, security: ChannelSecurity, told: str
) -> None:
    with pytest.raises(MaifsError, match=told) as caught:
        open_channel(address, security)
    assert caught.value.reason is Reason.INVALID_CONFIG


def test_the_environment_tells_how_to_connect() -> None:
    environ = {"MAIFS_CA_FILE": "/ca", "MAIFS_SERVER_NAME": "maifs", "MAIFS_TOKEN_FILE": "/token"}
    wanted = ChannelSecurity(ca_file=Path("/ca"), server_name="maifs", token_file=Path("/token"))
    assert ChannelSecurity.from_environment(environ) == wanted
    with pytest.raises(MaifsError):
        ChannelSecurity.from_environment({"MAIFS_KEY_FILE": "/key"})
    with pytest.raises(MaifsError):
        ChannelSecurity.from_environment({"MAIFS_CA_FILE": "/ca", "MAIFS_INSECURE": "1"})


def test_grpc_names_no_user_behind_a_unix_socket(folder: Path) -> None:
    """Why a socket's permissions are its guard: what grpc tells of its peer is the same for everybody."""
    seen: list[tuple[str, set[str]]] = []

    class Peer(grpc.GenericRpcHandler):
        def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
            def tell(request: bytes, context: grpc.ServicerContext) -> bytes:
                seen.append((context.peer(), set(context.auth_context())))
                return request

            return grpc.unary_unary_rpc_method_handler(tell)

    from concurrent.futures import ThreadPoolExecutor

    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((Peer(),))
    server.add_insecure_port(f"unix:{folder}/s")
    server.start()
    with grpc.insecure_channel(f"unix:{folder}/s") as channel:
        channel.unary_unary("/a/b")(b"", timeout=10)  # type: ignore[arg-type]
    server.stop(0).wait()
    assert seen == [("unix:", {"transport_security_type", "security_level"})]
