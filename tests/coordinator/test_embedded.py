"""Services as child processes: real vision and coordinator, no language model."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.camera import photo, to_jpeg
from coordinator.cli.__main__ import main
from coordinator.client import target
from coordinator.client.pictures import FilePicture
from coordinator.client.stream import Event, Reported, RunOptions, StreamRun, ToolEnded
from coordinator.embedded import EmbeddedOptions, ServiceName, State, embedded_services
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from serving.errors import ExitCode, MaifsError, Reason
from tests.conftest import ROOT


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children_of(pid: int) -> set[int]:
    """Without the process's own decoding workers, which stay as long as it does."""
    found = set()
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        found |= {int(child) for child in path.read_text().split() if not decodes(child)}
    return found


def decodes(pid: str) -> bool:
    try:
        return b"serving.bounded.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def wait_until_gone(pids: set[int], timeout_s: float) -> set[int]:
    deadline = time.monotonic() + timeout_s
    while (left := {pid for pid in pids if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(to_jpeg(photo(192, 256, seed=3)))
    return path


async def test_services_serve_while_the_context_lasts_and_leave_nothing_behind(picture: Path) -> None:
    states: list[tuple[ServiceName, State]] = []
    options = EmbeddedOptions(llm_model=None)
    async with embedded_services(options, lambda name, state, _: states.append((name, state))) as services:
        assert set(services.pids) == set(services.addresses) == {"vision", "coordinator"}
        assert await services.wait_llm(1.0) is None
        folder = Path(services.address.removeprefix("unix:")).parent
        assert folder.stat().st_mode & 0o077 == 0, "nobody else may use the sockets"
        events = await _analyse(services.address, picture)
        pids = set(services.pids.values())
    assert {name for name, state in states if state == "serving"} == {"vision", "coordinator"}
    assert len({event.result.tool for event in events if isinstance(event, ToolEnded)}) == 4
    reports = [event.report for event in events if isinstance(event, Reported)]
    assert len(reports) == 1
    assert reports[0].explanation.summary
    assert not {pid for pid in pids if alive(pid)}
    assert not folder.exists()


async def _analyse(address: str, picture: Path) -> list[Event]:
    async with open_channel(address) as channel:
        run = StreamRun(
            coordinator_pb2_grpc.CoordinatorServiceStub(channel),
            address,
            [FilePicture(picture)],
            RunOptions(1, 10_000_000, coordinator_pb2.AnalyzeOptions(skip_llm=True)),
        )
        return [event async for event in run.events()]


def test_the_command_starts_and_stops_services_of_its_own(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(target.ADDRESS_VARIABLE, raising=False)
    monkeypatch.setattr(target, "DEFAULT_ADDRESS", f"unix:{tmp_path}/none.sock")
    before = children_of(os.getpid())
    assert main(["analyze", str(picture), "--no-llm", "--json", "--out", str(tmp_path / "out")]) == ExitCode.OK
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert [tool["tool"] for tool in document["tools"]] == ["frequency", "noise", "watermark", "spatial"]
    assert "services ready" in captured.err
    assert (tmp_path / "out" / document["html_file"]).exists()
    assert not wait_until_gone(children_of(os.getpid()) - before, 1)


async def test_a_service_that_cannot_start_is_named_with_the_end_of_its_log() -> None:
    options = EmbeddedOptions(llm_model=None, settings={"coordinator": {"max_open_items": "0"}})
    pids: set[int] = set()
    before = children_of(os.getpid())
    with pytest.raises(MaifsError, match="max_open_items = 0: must be at least 1") as caught:
        async with embedded_services(options, lambda *_: pids.update(children_of(os.getpid()) - before)):
            pytest.fail("the context was entered")
    assert caught.value.reason is Reason.BACKEND_UNAVAILABLE
    assert not await asyncio.to_thread(wait_until_gone, pids, 1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_services_end_with_the_command_that_started_them(picture: Path, tmp_path: Path, number: signal.Signals) -> None:
    environment = {k: v for k, v in os.environ.items() if k != target.ADDRESS_VARIABLE} | {"TMPDIR": str(tmp_path)}
    code = "import sys, coordinator.client.target as t, coordinator.cli.__main__ as m; "
    code += "t.DEFAULT_ADDRESS = 'unix:/nowhere'; sys.exit(m.main())"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "analyze", str(picture), "--no-llm", "--quiet"],
        cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while len(services := children_of(process.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(30) in {-signal.SIGKILL, ExitCode.INTERRUPTED}
    assert len(services) == 2
    assert not wait_until_gone(services, 5)
    assert not list(tmp_path.glob("maifs-*")), "the private folder is removed"


async def test_a_service_that_dies_is_started_again(picture: Path) -> None:
    async with embedded_services(EmbeddedOptions(llm_model=None)) as services:
        before = services.pids
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(60):
            while not await _reports(services.address, picture):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
        after = services.pids
    assert not set(before.values()) & set(after.values())
    assert not {pid for pid in after.values() if alive(pid)}


async def _reports(address: str, picture: Path) -> bool:
    return any(isinstance(event, Reported) for event in await _analyse(address, picture))


def test_an_attached_process_that_ignores_sigterm_is_killed_with_its_children(tmp_path: Path) -> None:
    (tmp_path / "stubborn.py").write_text(
        "import signal, subprocess, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    code = "import sys, coordinator.attached as a; a.GRACE_S = 0.3; sys.argv[1:] = [sys.argv[1], 'stubborn']; a.main()"
    folder = tmp_path / "private"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    grandchild = int(process.stdout.readline())
    process.stdin.close()  # what the kernel does when the parent dies
    assert process.wait(10) == -signal.SIGKILL
    assert not wait_until_gone({grandchild}, 5)
    assert not folder.exists()
    process.stdout.close()
