"""One of the three services as a child process: the program that systemd runs on a single host, unchanged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.attached import STOPPING
from serving.channel import open_blocking_channel
from serving.channel_security import ChannelSecurity

Role = Literal["vision", "llm", "coordinator"]

MODULES: Mapping[Role, str] = {"vision": "vision_service", "llm": "llm_service", "coordinator": "coordinator"}
_HEALTH_TIMEOUT_S = 5.0
_STOP_S = 30.0
_LOG_TAIL_BYTES = 2000


def free_address(host: str) -> str:
    """An address of this host that nobody listens on at this moment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port = probe.getsockname()[1]
    return f"[{host}]:{port}" if family is socket.AF_INET6 else f"{host}:{port}"


class ServiceProcess:
    """A service that lives as long as this object's process at most; see coordinator.attached."""

    def __init__(self, role: Role, settings: Mapping[str, str], address: str, security: ChannelSecurity) -> None:
        """Starts it; does not wait until it serves.

        Args:
            role: which service.
            settings: of its configuration, as for `--set`.
            address: where it listens.
            security: how to call it.
        """
        self.role, self.address = role, address
        self.folder = Path(tempfile.mkdtemp(prefix="maifs-"))
        self._security = security
        self._log = self.folder / "log"
        arguments = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program, settings of the operator
                [
                    sys.executable, "-m", "coordinator.attached", str(self.folder), MODULES[role],
                    "--address", address, *arguments,
                ],
                stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the service."""
        return self._process.pid

    def is_serving(self) -> bool:
        """What its health service says; false when it does not answer."""
        try:
            with open_blocking_channel(self.address, self._security) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=_HEALTH_TIMEOUT_S)
        except grpc.RpcError:
            return False
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def wait_serving(self, timeout_s: float) -> None:
        """Returns when it serves.

        Raises:
            RuntimeError: with the end of its log, when it ends or takes longer.
        """
        end = time.monotonic() + timeout_s
        while not self.is_serving():
            code = self._process.poll()
            if code is not None or time.monotonic() > end:
                what = f"ended with exit code {code}" if code is not None else f"was not ready after {timeout_s:.0f} s"
                raise RuntimeError(f"The {self.role} service {what}. The end of its log:\n{self._log_tail()}")
            time.sleep(0.2)

    def check(self) -> None:
        """Raises RuntimeError when it has ended or does not serve."""
        if self._process.poll() is not None:
            raise RuntimeError(f"The {self.role} service ended with exit code {self._process.returncode}.")
        if not self.is_serving():
            raise RuntimeError(f"The {self.role} service at {self.address} does not serve.")

    def _log_tail(self) -> str:
        return self._log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")

    def stop(self) -> None:
        """Lets it finish what it has, within its own limits, then makes sure that nothing of it is left."""
        if self._process.poll() is None:
            assert self._process.stdin
            with contextlib.suppress(OSError):
                self._process.stdin.write(STOPPING)
                self._process.stdin.flush()
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
