"""The worker's side: takes a call, runs its task within limits, answers through shared memory. Forked by the zygote."""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from serving.bounded import packets
from serving.errors import MaifsError
from serving.memory import keep_large_buffers

_ALIGNMENT = 64
_KEPT_MIB = 64


class Call:
    """What a task gets: a file, parameters, and room for what it makes."""

    def __init__(self, file_descriptor: int, answer_descriptor: int, parameters: dict[str, Any]) -> None:
        self.parameters = parameters
        self._file_descriptor, self._answer_descriptor = file_descriptor, answer_descriptor
        self._size_bytes = 0
        self.extents: list[tuple[int, int]] = []
        """Offset and size in bytes of each buffer in the answer."""

    @property
    def path(self) -> str:
        """A path under which this process can open the file."""
        return f"/proc/self/fd/{self._file_descriptor}"

    def open(self) -> BinaryIO:
        """The file, with a position of its own; the caller closes it."""
        return Path(self.path).open("rb")

    def read(self) -> bytes:
        """The whole file."""
        with self.open() as file:
            return file.read()

    def put(self, pieces: Iterable[Any]) -> None:
        """Adds a buffer to the answer, made of contiguous pieces, bytes or arrays.

        They are written, not mapped, which saves a page fault for every 4 KiB.
        """
        start = self._size_bytes = -(-self._size_bytes // _ALIGNMENT) * _ALIGNMENT
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while view:
                written = os.pwrite(self._answer_descriptor, view, self._size_bytes)
                self._size_bytes += written
                view = view[written:]
        self.extents.append((start, self._size_bytes - start))

    def write_value(self, value: Any) -> tuple[int, int]:
        """Puts a JSON value behind the buffers; returns its offset and size in bytes."""
        self.put([json.dumps(value).encode()])
        return self.extents.pop()

    def close(self) -> None:
        """Closes the descriptors."""
        os.close(self._file_descriptor)
        os.close(self._answer_descriptor)


Task = Callable[[Call], Any]


def serve(connection: socket.socket, tasks: Mapping[str, Task]) -> None:
    """Answers calls until the service is gone, or until memory ran out once: what is left of it is not trusted."""
    _harden()
    keep_large_buffers(_KEPT_MIB)
    while True:
        try:
            message, descriptors = packets.receive(connection)
        except EOFError:
            return
        call = Call(descriptors[0], descriptors[1], message["parameters"])
        answer = _run(tasks[message["task"]], call, message["memory_bytes"])
        call.close()
        packets.send(connection, answer)
        if "exhausted" in answer:
            return


def _harden() -> None:
    """No core files with pictures in them, no output of codecs in the service's log."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)


def _run(task: Task, call: Call, memory_bytes: int) -> dict[str, Any]:
    _limit_memory(_address_space() + memory_bytes)
    try:
        value = task(call)
        return {"value": call.write_value(value), "buffers": call.extents}
    except MaifsError as error:
        return {"error": [error.reason.name, error.message[:4000], error.advice[:1000], error.retry_after_s]}
    except MemoryError:
        return {"exhausted": True}
    except Exception as error:  # noqa: BLE001 - the caller's process reports it
        return {"fault": f"{type(error).__name__}: {error}"[:4000]}
    finally:
        _limit_memory(resource.RLIM_INFINITY)


def _address_space() -> int:
    """Size in bytes of this process's address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _limit_memory(size_bytes: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    if hard != resource.RLIM_INFINITY:
        size_bytes = hard if size_bytes == resource.RLIM_INFINITY else min(size_bytes, hard)
    resource.setrlimit(resource.RLIMIT_AS, (size_bytes, hard))


def load(name: str) -> Task:
    """The task at "package.module:function"."""
    module, _, function = name.partition(":")
    __import__(module)
    task: Task = getattr(sys.modules[module], function)
    return task
