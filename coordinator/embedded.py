"""The three services as child processes on private UNIX sockets, for as long as an async context lasts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.attached import STOPPING
from serving.channel import open_channel
from serving.errors import MaifsError, Reason

ServiceName = Literal["vision", "llm", "coordinator"]
State = Literal["starting", "serving", "failed", "stopping", "stopped"]
StateListener = Callable[[ServiceName, State, float], None]
"""Called with a service, its new state and the seconds since its start."""

MODULES: Mapping[ServiceName, str] = {"vision": "vision_service", "llm": "llm_service", "coordinator": "coordinator"}
_DRAIN_S = 2.0
_STOP_S = 8.0
_LONGEST_FOLDER = 80  # bytes; a UNIX socket's path holds 107
_LOG_TAIL_LINES = 12
_FIRST_RESTART_PAUSE_S = 0.2
_LAST_RESTART_PAUSE_S = 30.0
_STABLE_S = 60.0
"""Seconds after which a service that dies is started again at once; before, with pauses that double."""


@dataclass(frozen=True)
class EmbeddedOptions:
    """What to start."""

    llm_model: str | None
    """Model directory or name for the LLM service; None starts no LLM service."""
    start_timeout_s: float = 120.0
    """Seconds that vision and coordinator have to become ready."""
    llm_start_timeout_s: float = 900.0
    """Seconds that the LLM service has."""
    settings: Mapping[ServiceName, Mapping[str, str]] = field(default_factory=dict)
    """More settings by service, as for --set."""


class Child:
    """One service. Once it has served it is started again when it dies, as a supervisor would."""

    def __init__(self, name: ServiceName, settings: Mapping[str, str], folder: Path, on_state: StateListener) -> None:
        self.name, self.address, self.log = name, settings["server.address"], folder / f"{name}.log"
        self._settings, self._folder, self._on_state = settings, folder, on_state
        self.process: Process
        self._started = 0.0
        self._guarding: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the process."""
        arguments = [argument for key, value in self._settings.items() for argument in ("--set", f"{key}={value}")]
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "coordinator.attached", str(self._folder), MODULES[self.name], *arguments,
                stdin=PIPE, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self._started = time.monotonic()
        self._on_state(self.name, "starting", 0.0)

    def guard(self) -> None:
        """From here on the process is started again when it ends by itself."""
        self._guarding = asyncio.ensure_future(self._guard())

    async def _guard(self) -> None:
        pause_s = _FIRST_RESTART_PAUSE_S
        while True:
            await self.process.wait()
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)  # what it started must not outlive it
            if time.monotonic() - self._started > _STABLE_S:
                pause_s = _FIRST_RESTART_PAUSE_S
            self._on_state(self.name, "failed", time.monotonic() - self._started)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_RESTART_PAUSE_S)
            await self.start()
            self._on_state(self.name, "serving", 0.0)

    @property
    def pid(self) -> int:
        """Process id, also the id of its process group."""
        return self.process.pid

    async def wait_serving(self, timeout_s: float) -> None:
        """Returns when its health service says SERVING.

        Raises:
            MaifsError: BACKEND_UNAVAILABLE with the end of its log when it ends or takes too long.
        """
        try:
            async with asyncio.timeout(timeout_s), open_channel(self.address) as channel:
                while not await _is_serving(channel):
                    if self.process.returncode is not None:
                        raise self._failure(f"ended with exit code {self.process.returncode} while it started")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            self._on_state(self.name, "failed", time.monotonic() - self._started)
            raise self._failure(f"was not ready after {timeout_s:.0f} s") from None
        except MaifsError:
            self._on_state(self.name, "failed", time.monotonic() - self._started)
            raise
        self._on_state(self.name, "serving", time.monotonic() - self._started)

    def _failure(self, what: str) -> MaifsError:
        return MaifsError(
            Reason.BACKEND_UNAVAILABLE,
            f"The embedded {self.name} service {what}. The end of its log:\n{self.log_tail()}",
        )

    def log_tail(self) -> str:
        """The last lines of its log."""
        try:
            lines = self.log.read_text("utf-8", errors="replace").splitlines()
        except OSError as error:
            return f"  (no log: {error.strerror})"
        return "\n".join(f"  {_readable(line)[:500]}" for line in lines[-_LOG_TAIL_LINES:]) or "  (empty)"

    async def stop(self) -> None:
        """SIGTERM, time to drain, then SIGKILL for the process and all that it started."""
        if self._guarding:
            self._guarding.cancel()
            await asyncio.gather(self._guarding, return_exceptions=True)
        if self.process.returncode is None:
            self._on_state(self.name, "stopping", time.monotonic() - self._started)
            if self.process.stdin:
                self.process.stdin.write(STOPPING)
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.process.wait(), _DRAIN_S + _STOP_S)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        await self.process.wait()
        self._on_state(self.name, "stopped", time.monotonic() - self._started)


class EmbeddedServices:
    """The running services."""

    def __init__(self, children: Mapping[ServiceName, Child], llm_ready: asyncio.Task[None] | None) -> None:
        self._children, self._llm_ready = children, llm_ready

    @property
    def address(self) -> str:
        """The coordinator's."""
        return self._children["coordinator"].address

    @property
    def addresses(self) -> dict[ServiceName, str]:
        """Of every service that was started."""
        return {name: child.address for name, child in self._children.items()}

    @property
    def pids(self) -> dict[ServiceName, int]:
        """Of every service that was started."""
        return {name: child.pid for name, child in self._children.items()}

    async def wait_llm(self, timeout_s: float) -> MaifsError | None:
        """Waits until the LLM service serves; returns what went wrong, or None when it serves or was not started."""
        if self._llm_ready is None:
            return None
        done, _ = await asyncio.wait({self._llm_ready}, timeout=timeout_s)
        if not done:
            return MaifsError(
                Reason.BACKEND_UNAVAILABLE,
                f"The language model was not ready after {timeout_s:.0f} s.",
                "Give it more time with --llm-wait SECONDS.",
            )
        error = self._llm_ready.exception()
        if error is not None and not isinstance(error, MaifsError):
            raise error
        return error


@contextlib.asynccontextmanager
async def embedded_services(
    options: EmbeddedOptions, on_state: StateListener = lambda name, state, elapsed_s: None
) -> AsyncIterator[EmbeddedServices]:
    """Starts the services side by side and stops them all when the context ends, however it ends.

    Yields as soon as vision and coordinator serve; the language model, slower by far, goes on loading
    (`EmbeddedServices.wait_llm`). Sockets and logs live in a private folder that is removed in the end. Enter it in
    the thread that lives as long as the context: the kernel ties the children to that thread's life.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE when vision or coordinator cannot start.
    """
    folder = _private_folder()
    children: dict[ServiceName, Child] = {}
    llm_ready: asyncio.Task[None] | None = None
    try:
        for name, arguments in _commands(options, folder).items():
            child = Child(name, arguments, folder, on_state)
            await child.start()
            children[name] = child
        if "llm" in children:
            llm_ready = asyncio.ensure_future(_guarded(children["llm"], options.llm_start_timeout_s))
        await _all_serving((children["vision"], children["coordinator"]), options.start_timeout_s)
        yield EmbeddedServices(children, llm_ready)
    finally:
        if llm_ready:
            llm_ready.cancel()
            await asyncio.gather(llm_ready, return_exceptions=True)
        await asyncio.gather(*(child.stop() for child in children.values()))
        shutil.rmtree(folder, ignore_errors=True)


async def _guarded(child: Child, timeout_s: float) -> None:
    await child.wait_serving(timeout_s)
    child.guard()


async def _all_serving(children: Iterable[Child], timeout_s: float) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(_guarded(child, timeout_s))
    except* MaifsError as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[MaifsError]) -> MaifsError:
    error = errors.exceptions[0]
    return error if isinstance(error, MaifsError) else _first(error)


def _private_folder() -> Path:
    parent = tempfile.gettempdir()
    if len(os.fsencode(parent)) > _LONGEST_FOLDER:
        parent = "/tmp"  # noqa: S108 - mkdtemp makes a folder that only this user can enter
    return Path(tempfile.mkdtemp(prefix="maifs-", dir=parent))


def _commands(options: EmbeddedOptions, folder: Path) -> dict[ServiceName, dict[str, str]]:
    """Settings of each service to start."""
    settings: dict[ServiceName, dict[str, str]] = {"vision": {}, "coordinator": {}}
    settings["coordinator"] = {
        "vision_address": f"unix:{folder}/vision.sock",
        "llm_address": f"unix:{folder}/llm.sock" if options.llm_model else "",
    }
    if options.llm_model:
        settings["llm"] = {"model": options.llm_model}
    for name, values in settings.items():
        values["server.drain_grace_s"] = str(_DRAIN_S)
        values["server.address"] = f"unix:{folder}/{name}.sock"
        values.update(options.settings.get(name, {}))
    return settings


def _readable(line: str) -> str:
    """A line of a JSON log as level and message; any other line as it is."""
    try:
        record = json.loads(line)
        return f"{record['level']}: {record['message']}"
    except (ValueError, KeyError, TypeError):
        return line


async def _is_serving(channel: grpc.aio.Channel) -> bool:
    try:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
