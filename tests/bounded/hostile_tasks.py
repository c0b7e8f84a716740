"""What a broken codec could do; named in the pools of tests alone."""

from __future__ import annotations

import ctypes
import os
import signal
import time

from serving.bounded.worker import Call
from serving.errors import MaifsError, Reason

TASKS = {
    name: f"{__name__}:{name}"
    for name in ("echo", "segfault", "abort", "leave", "hang", "devour", "refuse", "bug", "die", "lie", "pid")
}


def echo(call: Call) -> int:
    data = call.read()
    call.put([data[:1], data[1:]])
    return len(data)


def pid(call: Call) -> int:
    return os.getpid()


def segfault(call: Call) -> None:
    ctypes.string_at(8)


def abort(call: Call) -> None:
    os.abort()


def leave(call: Call) -> None:
    """As libjpeg's own error handler does."""
    os._exit(3)


def hang(call: Call) -> None:
    if "pid_file" in call.parameters:
        with open(call.parameters["pid_file"], "w") as file:  # noqa: PTH123
            file.write(str(os.getpid()))
    while True:
        time.sleep(3600)


def devour(call: Call) -> None:
    hoard = []
    while True:
        hoard.append(bytearray(1 << 24))


def refuse(call: Call) -> None:
    raise MaifsError(Reason.CORRUPT_IMAGE, "cut short", "look")


def bug(call: Call) -> None:
    raise KeyError("surprise")


def die(call: Call) -> int:
    """Killed from outside at the first call that sees the file's marker; a second one lives."""
    if not os.path.exists(call.parameters["marker"]):  # noqa: PTH110
        open(call.parameters["marker"], "w").close()  # noqa: PTH123
        os.kill(os.getpid(), signal.SIGKILL)
    return 7


def lie(call: Call) -> int:
    """An answer that speaks of bytes that are not there."""
    call.extents.append((0, 1 << 40))
    return 0
