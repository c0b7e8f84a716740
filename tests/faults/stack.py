"""The real coordinator between simulated backends, all of them processes."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import batch_pb2_grpc, coordinator_pb2, coordinator_pb2_grpc
from serving.channel import MAX_MESSAGE_BYTES
from serving.errors import MaifsError
from serving.status import from_status
from tests.faults.envoy import Envoy, envoy
from tests.processes import ServiceProcess, socket_folder

_CHANNEL = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(frozen=True)
class Plan:
    """What to start."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Of the coordinator, beyond addresses; {folder} stands for a folder of its own."""
    proxied: bool = False
    """Whether Envoy stands between."""
    vision_s: float = 0.02
    llm_s: float = 0.02
    map_bytes: int = 0
    vision: Sequence[str] = ()
    """Module and arguments of a vision service in place of the simulated one."""
    prefix: Sequence[str] = ()
    """Command that runs the coordinator, e.g. in another namespace."""
    env: Mapping[str, str] | None = None
    """Environment of the coordinator and the simulated backends."""
    backends: Sequence[str] = ("vision", "llm")


class Stack:
    """Running services. `processes` has them by name: "vision", "llm", "coordinator"."""

    def __init__(self, folder: Path, plan: Plan, proxy: Envoy | None, addresses: Mapping[str, str]) -> None:
        self.folder, self.plan, self.proxy = folder, plan, proxy
        self.addresses = dict(addresses)
        self.processes: dict[str, ServiceProcess] = {}
        self._channel = grpc.insecure_channel(addresses["coordinator"], options=list(_CHANNEL))

    @property
    def stub(self) -> Any:
        """Of the coordinator."""
        return coordinator_pb2_grpc.CoordinatorServiceStub(self._channel)

    @property
    def batches(self) -> Any:
        """Of the coordinator's batches."""
        return batch_pb2_grpc.BatchServiceStub(self._channel)

    def start(self, name: str) -> ServiceProcess:
        """Starts a service; the log of its last life is kept beside."""
        log = self.folder / f"{name}.log"
        if log.exists():
            log.rename(self.folder / f"{name}.{len(list(self.folder.glob(f'{name}*.log')))}.log")
        module, *arguments = self._command(name)
        prefix = self.plan.prefix if name == "coordinator" else ()
        environment = dict(self.plan.env) if self.plan.env else None
        process = ServiceProcess(module, self.addresses[name], *arguments, log=log, env=environment, prefix=prefix)
        self.processes[name] = process
        return process

    def _command(self, name: str) -> list[str]:
        plan = self.plan
        if name == "coordinator":
            seen = self.proxy.addresses if self.proxy else self.addresses
            given = {key: value.format(folder=self.folder) for key, value in plan.settings.items()}
            settings = {"vision_address": seen["vision"], "llm_address": seen["llm"], "cache_bytes": "0"}
            settings = {**settings, "second_look": "false", **given}
            return ["coordinator", *(text for key, value in settings.items() for text in ("--set", f"{key}={value}"))]
        if name == "vision" and plan.vision:
            return list(plan.vision)
        seconds = plan.vision_s if name == "vision" else plan.llm_s
        size = str(plan.map_bytes)
        return ["tests.faults.simulated_service", name, "--seconds", str(seconds), "--map-bytes", size]

    def signal(self, name: str, number: int) -> None:
        """Sends a signal to a service."""
        self.processes[name].process.send_signal(number)

    @contextlib.contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """A service that hangs: it is there, it listens, and it does nothing."""
        self.signal(name, signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(name, signal.SIGCONT)

    def analyze(
        self, data: bytes = b"picture", *, timeout_s: float = 60.0, **options: Any
    ) -> list[coordinator_pb2.ItemEvent]:
        """Events of one call. Raises grpc.RpcError."""
        request = coordinator_pb2.AnalyzeRequest(
            image=image_pb2.Image(data=data), options=coordinator_pb2.AnalyzeOptions(**options)
        )
        return [answer.event for answer in self.stub.Analyze(request, timeout=timeout_s, wait_for_ready=True)]

    def status(self) -> coordinator_pb2.GetStatusResponse:
        """What the coordinator tells of itself and of the backends."""
        answer = self.stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=60)
        assert isinstance(answer, coordinator_pb2.GetStatusResponse)
        return answer

    def log(self, name: str) -> str:
        """Everything that a service has logged since it was last started."""
        return self.processes[name].log.read_text()

    def close(self) -> None:
        """Ends all."""
        self._channel.close()
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                process.__exit__()


@contextlib.contextmanager
def running(plan: Plan) -> Iterator[Stack]:
    """Services for as long as the context lasts."""
    with contextlib.ExitStack() as exits:
        folder = exits.enter_context(socket_folder())
        addresses = {name: f"unix:{folder}/{name[0]}.sock" for name in ("vision", "llm", "coordinator")}
        proxy = None
        if plan.proxied:
            behind = {name: addresses[name] for name in ("vision", "llm")}
            proxy = exits.enter_context(envoy(folder, behind))
        stack = Stack(folder, plan, proxy, addresses)
        exits.callback(stack.close)
        for name in (*plan.backends, "coordinator"):
            stack.start(name)
        for process in stack.processes.values():
            process.wait_serving(120)
        yield stack


def end_of(events: Sequence[coordinator_pb2.ItemEvent]) -> str:
    """The terminal event's kind; fails unless there is exactly one, at the end."""
    kinds = [str(event.WhichOneof("event")) for event in events]
    assert [kind in {"report", "error"} for kind in kinds] == [False] * (len(kinds) - 1) + [True], kinds
    return kinds[-1]


def error_of(events: Sequence[coordinator_pb2.ItemEvent]) -> MaifsError:
    """The error with which a picture ended."""
    assert end_of(events) == "error", events[-1]
    return from_status(events[-1].error)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Waits for a condition; fails with what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.05)


def is_explained(events: Sequence[coordinator_pb2.ItemEvent]) -> bool:
    """Whether there is a report in which the language model had its part."""
    return end_of(events) == "report" and not events[-1].report.HasField("explanation_error")
