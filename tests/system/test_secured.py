"""Coordinator behind TLS and tokens, its backends behind mTLS, the command line: real processes and certificates.

The language-model service is the tiny one, whose listener is real and which has no model.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks.camera import photo, to_jpeg
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc, coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_blocking_channel
from serving.channel_security import ChannelSecurity
from serving.errors import ExitCode, Reason
from serving.status import from_status
from tests.coordinator.batches import SEAL, begin, chunk, end, offer
from tests.processes import ROOT, ServiceProcess, socket_folder
from tests.serving.certificates import Authority, Pair
from tests.serving.guarded import (
    TINY,
    Member,
    authority,
    entry,
    free_address,
    member,
    reason_in,
    reason_of,
    serving,
    settings,
    tls,
    until,
)

PATIENCE_S = 60


@dataclass(frozen=True)
class World:
    """What the tests share."""

    folder: Path
    signer: Authority
    other: Authority
    """Nobody trusts it."""
    vision: ServiceProcess
    coordinator: ServiceProcess
    members: dict[str, Member]
    picture: Path

    def security(self, name: str) -> ChannelSecurity:
        """How a client calls the coordinator."""
        return ChannelSecurity(ca_file=self.signer.file, token_file=self.members[name].file)

    def channel(self, name: str) -> grpc.Channel:
        """A connection of a client."""
        return open_blocking_channel(self.coordinator.address, self.security(name))


def to_vision(address: str, ca: Path, pair: Pair, **more: object) -> list[str]:
    """Arguments of a coordinator: its one backend and how it is called."""
    given = {"ca_file": ca, "certificate_file": pair.certificate, "key_file": pair.key, **more}
    channel = [part for name, value in given.items() for part in ("--set", f"vision_channel.{name}={value}")]
    return ["--set", f"vision_address={address}", *channel]


@pytest.fixture(name="world", scope="module")
def _world() -> Iterator[World]:
    with socket_folder() as folder:
        signer, other = authority(folder), authority(folder, "other")
        members = {name: member(folder, name) for name in ("alice", "bob", "carol", "chief")}
        quotas: dict[str, dict[str, object]] = {"carol": {"items_per_minute": 1}, "chief": {"operator": "true"}}
        entries = [entry(who, **quotas.get(name, {})) for name, who in members.items()]
        (folder / "clients.toml").write_text("\n".join(entries))
        (folder / "photo.jpg").write_bytes(to_jpeg(photo(240, 320, seed=5), 92))
        mine, access = signer.issue("coordinator", "localhost"), {"clients_file": folder / "clients.toml"}
        arguments = [
            *tls(mine),
            *settings(access__clients_file=access["clients_file"], access__audit_file=folder / "audit.jsonl"),
            *("--set", f"state_folder={folder / 'state'}"),
        ]
        vision_tls = tls(signer.issue("vision", "localhost"), signer.file)
        with (
            ServiceProcess("vision_service", free_address(), *vision_tls, log=folder / "v.log") as vision,
            ServiceProcess(TINY, free_address(), *tls(mine, signer.file), log=folder / "l.log") as llm,
        ):
            security = ChannelSecurity(signer.file, mine.certificate, mine.key)
            serving(vision, security), serving(llm, security)
            backends = to_vision(vision.address, signer.file, mine) + [
                part.replace("vision_", "llm_") for part in to_vision(llm.address, signer.file, mine)
            ]
            with ServiceProcess(
                "coordinator", free_address(), *arguments, *backends, log=folder / "c.log"
            ) as coordinator:
                serving(coordinator, ChannelSecurity(signer.file))
                yield World(folder, signer, other, vision, coordinator, members, folder / "photo.jpg")


def cli(world: World, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """`analyze` of the picture with options of the connection."""
    command = [sys.executable, "-m", "coordinator.cli", *map(str, options), "analyze", str(world.picture), "--json"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAIFS_")}
    return subprocess.run(
        [*command, "--no-llm", "--address", world.coordinator.address],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env=environ,
    )  # fmt: skip


def audited(world: World) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world.folder / "audit.jsonl").read_text().splitlines()]


def test_the_command_line_analyses_through_tls_a_token_and_mtls_to_vision(world: World) -> None:
    done = cli(world, "--ca-file", world.signer.file, "--token-file", world.members["alice"].file)
    assert done.returncode == ExitCode.OK, done.stderr
    assert json.loads(done.stdout)["status"] == "ok"
    calls = [line for line in audited(world) if line.get("client") == "alice"]
    assert calls, "the audit file names the client"
    assert world.members["alice"].token not in (world.folder / "audit.jsonl").read_text()


@pytest.mark.parametrize("fault", ["no token", "foreign token", "foreign authority"])
def test_the_command_line_says_what_keeps_it_out(world: World, fault: str) -> None:
    ca = world.other.file if fault == "foreign authority" else world.signer.file
    stranger = member(world.folder, "stranger")
    token = {"no token": (), "foreign token": ("--token-file", stranger.file)}.get(
        fault, ("--token-file", world.members["alice"].file)
    )
    done = cli(world, "--ca-file", ca, *token)
    assert done.returncode != ExitCode.OK
    told = done.stdout + done.stderr
    if fault == "foreign authority":
        assert "BACKEND_UNAVAILABLE" in told or "certificate" in told.lower(), told
    else:
        assert "UNAUTHENTICATED" in told or "token" in told, told
        assert "--token-file" in told


def analyze(channel: grpc.Channel, data: bytes) -> list[coordinator_pb2.AnalyzeResponse]:
    request = coordinator_pb2.AnalyzeRequest(
        image=image_pb2.Image(data=data), options=coordinator_pb2.AnalyzeOptions(skip_llm=True)
    )
    stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
    return list(stub.Analyze(request, timeout=PATIENCE_S))


def test_a_quota_refuses_over_the_wire_with_the_time_to_wait(world: World) -> None:
    data = world.picture.read_bytes()
    with world.channel("carol") as channel:
        analyze(channel, data)
        with pytest.raises(grpc.RpcError) as caught:  # one a minute comes back; three in a row take no minute each
            analyze(channel, data), analyze(channel, data)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert reason_in(caught.value) == "QUOTA_EXCEEDED"
    status, retry = rpc_status.from_call(caught.value), error_details_pb2.RetryInfo()
    assert any(detail.Unpack(retry) for detail in status.details)
    assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 60


def submit(channel: grpc.Channel, batch_id: str, data: bytes) -> None:
    steps = [begin(batch_id), offer("p", data, "1"), chunk("1", data), end("1"), SEAL]
    answers = list(batch_pb2_grpc.BatchServiceStub(channel).SubmitBatch(iter(steps), timeout=PATIENCE_S))
    assert answers[-1].sealed.batch_id == batch_id
    assert answers[-1].sealed.items_count == 1


def ids(channel: grpc.Channel) -> list[str]:
    stub = batch_pb2_grpc.BatchServiceStub(channel)
    return sorted(b.batch_id for b in stub.ListBatches(batch_pb2.ListBatchesRequest(), timeout=PATIENCE_S).batches)


def test_batches_are_their_clients_own_and_an_operators(world: World) -> None:
    data = world.picture.read_bytes()
    with world.channel("alice") as alice, world.channel("bob") as bob, world.channel("chief") as chief:
        submit(alice, "trip", data)
        trip = batch_pb2.WatchBatchRequest(batch_id="trip")
        assert list(batch_pb2_grpc.BatchServiceStub(alice).WatchBatch(trip, timeout=60))
        theirs = batch_pb2_grpc.BatchServiceStub(bob)
        content = batch_pb2.GetReportRequest(sha256=hashlib.sha256(data).digest())
        for name in ("trip", "alice/trip", "../alice/trip"):
            attempts = (
                lambda n=name: theirs.GetBatch(batch_pb2.GetBatchRequest(batch_id=n), timeout=60),
                lambda n=name: theirs.ListBatchItems(batch_pb2.ListBatchItemsRequest(batch_id=n), timeout=60),
                lambda n=name: list(theirs.WatchBatch(batch_pb2.WatchBatchRequest(batch_id=n), timeout=60)),
                lambda n=name: theirs.CancelBatch(batch_pb2.CancelBatchRequest(batch_id=n), timeout=60),
                lambda n=name: theirs.GetReport(batch_pb2.GetReportRequest(batch_id=n, position=1), timeout=60),
            )
            assert {reason_of(attempt) for attempt in attempts} == {"UNKNOWN_BATCH"}
        assert reason_of(lambda: theirs.GetReport(content, timeout=60)) == "UNKNOWN_REPORT"
        assert ids(bob) == []
        submit(bob, "trip", data)
        assert ids(alice) == ids(bob) == ["trip"]
        assert ids(chief) == ["alice/trip", "bob/trip"]
        found = batch_pb2_grpc.BatchServiceStub(alice).GetReport(content, timeout=60)
        assert found.batch_id == "trip"
        assert found.report.tool_results
        operator = batch_pb2_grpc.BatchServiceStub(chief)
        ended = operator.CancelBatch(batch_pb2.CancelBatchRequest(batch_id="bob/trip"), timeout=60).batch
        assert ended.state == batch_pb2.BATCH_STATE_CANCELLED


@pytest.mark.parametrize(("fault", "told"), [("authority", "CERTIFICATE_VERIFY_FAILED"), ("name", "Hostname")])
def test_a_backend_that_cannot_prove_itself_is_not_used(world: World, fault: str, told: str) -> None:
    mine = world.signer.issue("again", "localhost")
    ca = world.other.file if fault == "authority" else world.signer.file
    more = {"server_name": "elsewhere.example"} if fault == "name" else {}
    arguments = to_vision(world.vision.address, ca, mine, **more)
    address, log = f"unix:{world.folder}/faulty.sock", world.folder / "faulty.log"
    with (
        ServiceProcess("coordinator", address, *arguments, "--set", "llm_address=", log=log) as process,
        open_blocking_channel(address) as channel,
    ):
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)

        def backend() -> coordinator_pb2.BackendStatus:
            assert process.process.poll() is None, log.read_text()
            with contextlib.suppress(grpc.RpcError):
                return stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10).backends[0]
            return coordinator_pb2.BackendStatus()

        until(lambda: backend().state == coordinator_pb2.BACKEND_STATE_UNREACHABLE, "a backend that is unreachable")
        assert told in backend().reason
        event = analyze(channel, world.picture.read_bytes())[-1].event
        assert from_status(event.error).reason is Reason.BACKEND_UNAVAILABLE
        assert told in event.error.message


def test_a_coordinator_with_an_expired_certificate_of_its_own_does_not_start_and_says_so(world: World) -> None:
    expired = world.signer.issue("expired", "localhost", days=-1)
    arguments = to_vision(world.vision.address, world.signer.file, expired)
    log = world.folder / "expired.log"
    with ServiceProcess("coordinator", f"unix:{world.folder}/e.sock", *arguments, log=log) as process:
        assert process.process.wait(PATIENCE_S) == ExitCode.USAGE
    assert "expired.crt expired 1 days ago" in log.read_text()
