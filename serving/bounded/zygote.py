"""The process that workers are forked from: imports the codecs once and touches no file from outside.

It ends when its service does, however that dies, because its control socket then reads end-of-file; its workers end
with it, because the kernel kills them (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping
from typing import Any

from serving.bounded import packets, worker

_PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_SET_NO_NEW_PRIVS = 1, 15, 38


def main() -> None:
    """Serves on the socket whose descriptor is the first argument; the second names the tasks as a JSON object."""
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a service that drains still decodes
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    prctl = ctypes.CDLL(None).prctl
    prctl(_PR_SET_NAME, b"maifs-codecs", 0, 0, 0)
    tasks = {name: worker.load(place) for name, place in json.loads(sys.argv[2]).items()}
    gc.collect()
    gc.freeze()  # collections in the workers then leave the pages shared with this process alone
    while True:
        try:
            message, descriptors = packets.receive(control)
        except EOFError:
            os._exit(0)
        packets.send(control, _obey(message, descriptors, control, tasks, prctl))


def _obey(
    message: dict[str, Any],
    descriptors: list[int],
    control: socket.socket,
    tasks: Mapping[str, worker.Task],
    prctl: Any,
) -> dict[str, Any]:
    if "end" in message:
        pid = int(message["end"])
        os.kill(pid, signal.SIGKILL)  # without effect on one that is dead already: its own end is reported
        return {"status": os.waitpid(pid, 0)[1]}
    zygote, pid = os.getpid(), os.fork()
    if pid == 0:
        _work(zygote, descriptors[0], control, tasks, prctl)
    os.close(descriptors[0])
    return {"pid": pid}


def _work(zygote: int, descriptor: int, control: socket.socket, tasks: Mapping[str, worker.Task], prctl: Any) -> None:
    status = 1
    try:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if os.getppid() == zygote:
            control.close()
            worker.serve(socket.socket(fileno=descriptor), tasks)
            status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
