"""The service's side of the zygote: starts it, has workers forked and ended, starts it again when it is gone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.bounded import packets

_CONTROL_TIMEOUT_S = 60.0  # an overloaded machine takes that long to import the codecs; a fork takes milliseconds
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",  # a process with threads must not fork
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",  # each arena reserves 64 MiB of address space, which is what is limited
}


@dataclass(frozen=True, eq=False)
class WorkerProcess:
    """A worker and the socket to it."""

    pid: int
    connection: socket.socket
    zygote: subprocess.Popen[bytes]
    """Its parent, which alone may end it: a pid that is not reaped is not used again."""


class Launcher:
    """Makes workers for a set of tasks. Thread-safe.

    Args:
        tasks: "package.module:function" by name; the modules are imported once, before any worker is forked.
    """

    def __init__(self, tasks: Mapping[str, str]) -> None:
        self._tasks = dict(tasks)
        self._lock = threading.Lock()
        self._zygote: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Starts the zygote, if there is none, without waiting for its imports."""
        with self._lock:
            self._connect()

    def spawn(self) -> WorkerProcess:
        """A fresh worker.

        Raises:
            OSError: no process can be made.
        """
        ours, theirs = packets.make_pair()
        with self._lock, theirs:
            try:
                pid = int(self._ask({"spawn": True}, theirs.fileno())["pid"])
            except (EOFError, ConnectionError):  # somebody killed the zygote: once more, with a fresh one
                self._disconnect()
                pid = int(self._ask({"spawn": True}, theirs.fileno())["pid"])
            assert self._zygote is not None
            return WorkerProcess(pid, ours, self._zygote)

    def end(self, process: WorkerProcess) -> int | None:
        """Kills a worker and waits for its end.

        Returns:
            Its exit status as `os.waitpid` gives it; None when it died with its zygote.
        """
        process.connection.close()
        with self._lock:
            if process.zygote is not self._zygote:
                return None
            try:
                return int(self._ask({"end": process.pid})["status"])
            except (EOFError, OSError):
                self._disconnect()
                return None

    def close(self) -> None:
        """Ends the zygote and with it all workers."""
        with self._lock:
            self._disconnect()

    def _ask(self, message: dict[str, Any], *descriptors: int) -> dict[str, Any]:
        control = self._connect()
        packets.send(control, message, descriptors)
        return packets.receive(control)[0]

    def _connect(self) -> socket.socket:
        if self._control is None:
            ours, theirs = packets.make_pair()
            ours.settimeout(_CONTROL_TIMEOUT_S)
            path = os.pathsep.join(entry for entry in sys.path if entry)
            command = [sys.executable, "-P", "-m", "serving.bounded.zygote", str(theirs.fileno())]
            with theirs:
                self._zygote = subprocess.Popen(  # noqa: S603 - this interpreter and this package
                    [*command, json.dumps(self._tasks)],
                    env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                )
            self._control = ours
        return self._control

    def _disconnect(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._zygote is not None:
            self._zygote.kill()
            self._zygote.wait()
            self._zygote = None
