"""What systemd hears, on a real notification socket."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.errors import ExitCode, MaifsError, Reason
from serving.notify import Notifier
from tests.processes import ROOT, socket_folder

Message = dict[str, str]


class Manager:
    """The listening end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.heard: list[Message] = []

    def hear(self, timeout_s: float = 10.0) -> Message:
        self.socket.settimeout(timeout_s)
        text = self.socket.recv(65536).decode()
        message = dict(line.split("=", 1) for line in text.splitlines())
        self.heard.append(message)
        return message

    def drain(self) -> None:
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.socket.recv(65536)

    def hear_until(self, name: str, timeout_s: float = 30.0) -> Message:
        end = time.monotonic() + timeout_s
        while name not in (message := self.hear(end - time.monotonic())):
            pass
        return message


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


@pytest.fixture(name="manager")
def _manager(folder: Path) -> Iterator[Manager]:
    manager = Manager(str(folder / "notify"))
    yield manager
    manager.socket.close()


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.serving.tiny_service", "--address", f"unix:{folder}/t.sock", *arguments]
    environ = {**os.environ, "NOTIFY_SOCKET": str(folder / "notify"), **variables}
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)


def test_a_service_asks_for_time_then_is_ready_then_stops(folder: Path, manager: Manager) -> None:
    with start(folder, "--set", "start_s=0.5") as process:
        first = manager.hear(30)
        assert int(first["EXTEND_TIMEOUT_USEC"]) == 40_000_000
        assert first["STATUS"] == "starting, 0 s"
        assert manager.hear()["READY"] == "1"
        process.send_signal(signal.SIGTERM)
        last = manager.hear()
        assert (last["STOPPING"], last["STATUS"]) == ("1", "draining")
        assert int(last["EXTEND_TIMEOUT_USEC"]) >= 20_000_000
        assert process.wait(20) == ExitCode.OK


def test_a_service_that_is_stopped_while_it_starts_was_never_ready(folder: Path, manager: Manager) -> None:
    with start(folder, "--set", "start_s=600") as process:
        manager.hear(30)
        process.send_signal(signal.SIGTERM)
        manager.hear_until("STOPPING")
        assert process.wait(20) == ExitCode.OK
    assert all("READY" not in message for message in manager.heard)


def test_a_failed_start_says_why_and_is_never_ready(folder: Path, manager: Manager) -> None:
    with start(folder, "--set", "fail_start=true") as process:
        last = manager.hear_until("STOPPING")
        assert "no such model" in last["STATUS"]
        assert process.wait(20) == ExitCode.USAGE
    assert all("READY" not in message for message in manager.heard)


def test_the_watchdog_hears_the_event_loop_until_it_hangs(folder: Path, manager: Manager) -> None:
    with start(folder, WATCHDOG_USEC="600000") as process:
        manager.hear_until("READY")
        for _ in range(3):
            assert manager.hear(1.0)["WATCHDOG"] == "1"
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        manager.drain()
        with pytest.raises(TimeoutError):
            manager.hear(1.0)
        process.kill()


async def alive() -> None:
    """All parts work."""


async def test_a_part_that_hangs_leaves_the_watchdog_without_a_sign_and_says_so(folder: Path, manager: Manager) -> None:
    failing: list[Exception] = []
    hanging = asyncio.Event()
    hanging.set()

    async def check() -> None:
        if failing:
            raise failing[0]
        await hanging.wait()

    notifier = Notifier(str(folder / "notify"), watchdog_s=0.3)
    async with notifier.guarded(check):
        assert (await asyncio.to_thread(manager.hear))["WATCHDOG"] == "1"
        failing.append(MaifsError(Reason.INTERNAL, "a worker thread hangs"))
        message = await asyncio.to_thread(manager.hear_until, "STATUS")
        assert message == {"STATUS": "hung: a worker thread hangs"}
        assert (await asyncio.to_thread(manager.hear)) == message, "no sign of life between"
        failing.clear()
        await asyncio.to_thread(manager.hear_until, "WATCHDOG")
        hanging.clear()
        message = await asyncio.to_thread(manager.hear_until, "STATUS")
        assert message == {"STATUS": "hung: no answer within 0.3 s"}


def test_without_a_manager_nothing_is_sent() -> None:
    notifier = Notifier.from_environment({})
    notifier.ready()
    notifier.stopping("draining", 1.0)


def test_a_manager_that_is_gone_is_no_failure(folder: Path) -> None:
    Notifier(str(folder / "nobody")).ready()


def test_children_do_not_inherit_the_line() -> None:
    environ = {"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    Notifier.from_environment(environ)
    assert environ == {"HOME": "/"}


async def test_a_watchdog_meant_for_another_process_is_left_alone(folder: Path, manager: Manager) -> None:
    notifier = Notifier.from_environment(
        {"NOTIFY_SOCKET": str(folder / "notify"), "WATCHDOG_USEC": "3000", "WATCHDOG_PID": "1"}
    )
    async with notifier.guarded(alive):
        await asyncio.sleep(0.05)
    with pytest.raises(TimeoutError):
        manager.hear(0.05)


def test_an_abstract_socket_is_reached_and_lines_stay_apart() -> None:
    name = f"maifs-test-{os.getpid()}"
    manager = Manager("\0" + name)
    Notifier("@" + name).status("two\nREADY=1")
    assert manager.hear() == {"STATUS": "two READY=1"}
    manager.socket.close()
