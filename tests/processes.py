"""Real service processes for tests."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

ROOT = Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def socket_folder() -> Iterator[Path]:
    """A folder whose path is short enough for UNIX sockets."""
    folder = Path(tempfile.mkdtemp(prefix="maifs-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class ServiceProcess:
    """A service started by `python -m MODULE`; killed at the end whatever happens."""

    def __init__(
        self,
        module: str,
        address: str,
        *arguments: str,
        log: Path,
        env: dict[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        self.address, self.log = address, log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", module, "--address", address, *arguments],
                cwd=ROOT,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                env=env,
            )

    def health(self, timeout_s: float = 1.0) -> int | None:
        """Serving status; None when it does not answer."""
        with grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            try:
                request = health_pb2.HealthCheckRequest()
                return int(health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s).status)
            except grpc.RpcError:
                return None

    def wait_serving(self, timeout_s: float = 60.0) -> ServiceProcess:
        """Waits until health says SERVING; fails with the log when the process ends or the time is over."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                break
            if self.health() == health_pb2.HealthCheckResponse.SERVING:
                return self
            time.sleep(0.05)
        raise AssertionError(f"{self.address} is not serving; its log:\n{self.log.read_text()[-4000:]}")

    def terminate(self, timeout_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout_s)

    def __enter__(self) -> ServiceProcess:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
