"""Tokens, quotas, the audit file and closed doors, with a service on a UNIX socket and one behind TLS."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from serving.access.audit import audit, close_audit_file, open_audit_file
from serving.access.caller import Caller, counted, current_caller, metered
from serving.access.clients import Clients, digest_of, load_clients
from serving.access.gate import Gate
from serving.access.quotas import UNLIMITED, Account, Quota
from serving.access.reload import Reloaded
from serving.channel import open_blocking_channel
from serving.channel_security import ChannelSecurity
from serving.errors import ExitCode, MaifsError, Reason
from serving.item_stream import ByteBudget
from tests.processes import ServiceProcess, socket_folder
from tests.serving.guarded import (
    TINY,
    Member,
    ask,
    authority,
    entry,
    free_address,
    member,
    reason_of,
    serving,
    settings,
    tls,
    until,
)


@dataclass(frozen=True)
class World:
    """A service that knows alice and bob, not mallory."""

    service: ServiceProcess
    clients_file: Path
    audit_file: Path
    alice: Member
    bob: Member
    mallory: Member

    @property
    def address(self) -> str:
        return self.service.address

    def as_(self, who: Member | None) -> ChannelSecurity:
        return ChannelSecurity(token_file=who.file if who else None)

    def audited(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[World]:
    with socket_folder() as folder:
        alice, bob, mallory = (member(folder, name) for name in ("alice", "bob", "mallory"))
        clients, audited = folder / "clients.toml", folder / "audit.jsonl"
        clients.write_text(entry(alice) + entry(bob))
        arguments = settings(access__clients_file=clients, access__audit_file=audited, access__status=False)
        with ServiceProcess(TINY, f"unix:{folder}/s", *arguments, log=folder / "log") as process:
            yield World(serving(process, ChannelSecurity()), clients, audited, alice, bob, mallory)


def test_a_token_lets_in_and_names_the_client(world: World) -> None:
    request_id = ask(world.address, world.as_(world.alice)).model  # the tiny service answers with it
    line = next(line for line in world.audited() if line["request_id"] == request_id)
    assert (line["client"], line["outcome"], line["peer"]) == ("alice", "OK", "unix:")
    assert line["method"] == "/maifs.llm.v1.LlmService/GetModelInfo"
    assert stat.S_IMODE(world.audit_file.stat().st_mode) == 0o600


@pytest.mark.parametrize("who", [None, "mallory"])
def test_without_a_known_token_every_method_is_refused_and_noted(world: World, who: str | None) -> None:
    before = len(world.audited())
    security = world.as_(world.mallory if who else None)
    assert reason_of(lambda: ask(world.address, security)) == "UNAUTHENTICATED"
    with open_blocking_channel(world.address, security) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        listing = reflection_pb2.ServerReflectionRequest(list_services="")
        assert (
            reason_of(lambda: list(reflection.ServerReflectionInfo(iter([listing]), timeout=10))) == "UNAUTHENTICATED"
        )
        health = health_pb2_grpc.HealthStub(channel)
        assert reason_of(lambda: next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10))) == "UNAUTHENTICATED"
    lines = world.audited()[before:]
    assert [line["outcome"] for line in lines] == ["UNAUTHENTICATED"] * 3
    assert all("client" not in line for line in lines)


def test_probes_need_no_token_for_the_health_of_the_whole(world: World) -> None:
    with open_blocking_channel(world.address, world.as_(None)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
        part = health_pb2.HealthCheckRequest(service="maifs.llm.v1.LlmService")
        assert reason_of(lambda: health.Check(part, timeout=10)) == "UNAUTHENTICATED"


def test_closed_status_hides_the_health_of_parts_from_clients_too(world: World) -> None:
    with open_blocking_channel(world.address, world.as_(world.alice)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        part = health_pb2.HealthCheckRequest(service="maifs.llm.v1.LlmService")
        assert reason_of(lambda: health.Check(part, timeout=10)) == "PERMISSION_DENIED"
        assert next(health.Watch(health_pb2.HealthCheckRequest(), timeout=10)).status == 1


def test_a_changed_file_counts_at_once_and_a_broken_one_not_at_all(world: World) -> None:
    good = world.clients_file.read_text()
    world.clients_file.write_text(entry(world.alice))
    bob = world.as_(world.bob)
    until(lambda: reason_of(lambda: ask(world.address, bob)) == "UNAUTHENTICATED", "bob is no client any more")
    world.clients_file.write_text("[clients")
    until(lambda: "clients: new files refused" in world.service.log.read_text(), "a line in the log")
    assert ask(world.address, world.as_(world.alice)).model
    world.clients_file.write_text(good)
    until(lambda: not reason_of(lambda: ask(world.address, bob)), "bob is a client again")


def test_no_secret_is_written_anywhere(world: World) -> None:
    reason_of(lambda: ask(world.address, world.as_(world.mallory)))
    written = world.audit_file.read_text() + world.service.log.read_text()
    for who in (world.alice, world.bob, world.mallory):
        assert who.token not in written
        assert digest_of(who.token) not in written


def test_a_token_travels_over_tls(tmp_path: Path) -> None:
    with socket_folder() as folder:
        signer, alice = authority(folder), member(folder, "alice")
        (folder / "clients.toml").write_text(entry(alice))
        arguments = tls(signer.issue("server", "localhost")) + settings(access__clients_file=folder / "clients.toml")
        trusting = ChannelSecurity(ca_file=signer.file)
        with ServiceProcess(TINY, free_address(), *arguments, log=folder / "log") as process:
            serving(process, trusting)
            assert reason_of(lambda: ask(process.address, trusting)) == "UNAUTHENTICATED"
            assert ask(process.address, ChannelSecurity(ca_file=signer.file, token_file=alice.file)).model


def test_a_socket_lets_in_its_owner_and_its_group_alone(world: World) -> None:
    path = Path(world.address.removeprefix("unix:"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    path.parent.chmod(0o755)
    nobody = 65534

    def connect_as(group: int) -> subprocess.CompletedProcess[str]:
        become = f"os.setgroups([]); os.setgid({group}); os.setuid({nobody})"
        code = f"import os, socket; {become}; socket.socket(socket.AF_UNIX).connect({str(path)!r})"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert "PermissionError" in connect_as(nobody).stderr
    friend = connect_as(path.stat().st_gid)
    assert friend.returncode == 0, friend.stderr


def test_a_service_does_not_start_with_clients_that_are_no_good(tmp_path: Path) -> None:
    with socket_folder() as folder:
        arguments = settings(access__clients_file=folder / "missing.toml")
        with ServiceProcess(TINY, f"unix:{folder}/s", *arguments, log=folder / "log") as process:
            assert process.process.wait(60) == ExitCode.USAGE
            assert "cannot be read" in (folder / "log").read_text()


def load(path: Path, text: str, default: Quota = UNLIMITED) -> Clients:
    path.write_text(text)
    return load_clients(path, default)


DIGEST = "0" * 64


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no client"),
        ("[clients.a]", "neither token_sha256 nor certificates"),
        ('[clients.a]\ntoken_sha256 = "secret"', "64 hexadecimal digits"),
        (f'[clients.a]\ntoken_sha256 = "{DIGEST}"\n[clients.b]\ntoken_sha256 = "{DIGEST}"', "shares a token"),
        (f'[clients.a]\ntoken_sha256 = "{DIGEST}"\nitems = 3', "unknown setting 'items'"),
        (f'[clients.a]\ntoken_sha256 = "{DIGEST}"\nopen_items = true', "whole numbers"),
        (f'[clients.a]\ntoken_sha256 = "{DIGEST}"\nopen_items = -1', "at least 0"),
        (f'[clients."a b"]\ntoken_sha256 = "{DIGEST}"', "name has 1 to 64"),
        ("[clients]\na = 3", "must be a table"),
        ("[client.a]", "unknown table"),
        ("[[", "not valid TOML"),
    ],
)
def test_faults_of_the_file_of_clients_are_named(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(MaifsError, match=told) as caught:
        load(tmp_path / "c.toml", text)
    assert caught.value.reason is Reason.INVALID_CONFIG


def test_certificates_tell_callers_apart_where_there_is_no_file_of_clients() -> None:
    gate = Gate(None, status=True)
    nameless, other = ({"x509_pem_cert": [pem]} for pem in (b"one", b"two"))
    assert gate.caller((), {}) == Caller(operator=True)
    assert gate.caller((), {"x509_pem_cert": [b"pem"], "x509_common_name": [b"alice"]}) == Caller("alice")
    assert not gate.caller((), nameless).operator
    assert gate.caller((), nameless).client != gate.caller((), other).client


def test_a_file_of_clients_that_anybody_may_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    load(path, f'[clients.a]\ntoken_sha256 = "{DIGEST}"')
    path.chmod(0o666)
    with pytest.raises(MaifsError, match="anybody may write"):
        load_clients(path, UNLIMITED)


def test_clients_have_several_tokens_certificates_and_quotas_of_their_own(tmp_path: Path) -> None:
    text = (
        f'[clients.a]\ntoken_sha256 = ["{digest_of("one")}", "{digest_of("two")}"]\nopen_items = 2\n'
        '[clients.b]\ncertificates = ["b.example"]\noperator = true\n'
    )
    clients = load(tmp_path / "c.toml", text, Quota(items_per_minute=7))
    one, two, b = clients.with_token("one"), clients.with_token("two"), clients.with_certificate(["x", "b.example"])
    assert one is not None
    assert one == two
    assert (one.name, one.quota) == ("a", Quota(items_per_minute=7, open_items=2))
    assert b is not None
    assert b.quota == Quota(items_per_minute=7)
    assert (one.operator, b.operator) == (False, True)
    assert clients.with_token("three") is clients.with_certificate(["a"]) is None


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refusal(account: Account, quota: Quota, size_bytes: int = 1) -> MaifsError | None:
    try:
        account.open("alice", quota, size_bytes)
    except MaifsError as error:
        assert error.reason is Reason.QUOTA_EXCEEDED
        return error
    return None


def test_items_a_minute_come_back_with_time() -> None:
    clock = Clock()
    account, quota = Account(clock), Quota(items_per_minute=6)
    assert [refusal(account, quota) for _ in range(6)] == [None] * 6
    refused = refusal(account, quota)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(10.0)
    clock.now += 9.0
    assert refusal(account, quota)
    clock.now += 1.0
    assert refusal(account, quota) is None
    assert refusal(account, quota)
    clock.now += 3600.0
    assert [refusal(account, quota) is None for _ in range(7)] == [True] * 6 + [False]


def test_bytes_a_minute_let_a_large_file_pass_that_is_paid_off_afterwards() -> None:
    clock = Clock()
    account, quota = Account(clock), Quota(bytes_per_minute=600)
    assert refusal(account, quota, 1200) is None
    refused = refusal(account, quota, 60)
    assert refused is not None
    assert refused.retry_after_s == pytest.approx(66.0)
    clock.now += 66.0
    assert refusal(account, quota, 60) is None


def test_open_items_are_those_without_an_end_and_a_refused_one_costs_nothing() -> None:
    account, quota = Account(Clock()), Quota(open_items=2, items_per_minute=3)
    caller, budget = Caller("alice", quota, account), ByteBudget(100)
    token = current_caller.set(caller)
    try:
        with counted(40, budget), counted(40, budget):
            with pytest.raises(MaifsError, match="2 items open"):
                metered(budget).reserve(1)
            with pytest.raises(MaifsError) as full:
                metered(budget).reserve(40)
            assert full.value.reason is Reason.QUEUE_FULL
            assert budget.held_bytes == 80
        assert (budget.held_bytes, account.open_items) == (0, 0)
        with counted(1, budget):
            pass
    finally:
        current_caller.reset(token)
    assert refusal(account, quota), "three items were counted, no refused one"


def test_reloaded_files_are_taken_when_they_rest(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("1")
    file = Reloaded("f", [path], lambda: int(path.read_text()))
    path.write_text("22")
    assert [file.look(), file.look(), file.look()] == [False, True, False]
    assert file.value == 22


def test_an_audit_file_that_was_moved_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "audit"
    open_audit_file(path, "tiny")
    try:
        audit({"method": "/one"})
        path.rename(tmp_path / "audit.1")
        audit({"method": "/two"})
    finally:
        close_audit_file()
    assert json.loads((tmp_path / "audit.1").read_text())["method"] == "/one"
    assert json.loads(path.read_text())["method"] == "/two"


def test_an_audit_file_that_cannot_be_written_is_told_once_and_calls_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    path = tmp_path / "audit"
    path.symlink_to("/dev/full")
    open_audit_file(path, "tiny")
    try:
        with caplog.at_level(logging.ERROR):
            audit({"method": "/one"})
            audit({"method": "/two"})
    finally:
        close_audit_file()
    assert [record.message for record in caplog.records] == ["the audit file cannot be written"]


def test_quotas_travel_as_a_reason_with_the_time_to_wait() -> None:
    from serving.status import from_status, to_status

    refused = refusal(Account(Clock()), Quota(open_items=1)) or refusal_of_second()
    told = to_status(refused)
    assert told.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in told.details)
    assert from_status(told).retry_after_s > 0


def refusal_of_second() -> MaifsError:
    account, quota = Account(Clock()), Quota(open_items=1)
    refusal(account, quota)
    refused = refusal(account, quota)
    assert refused is not None
    return refused
