"""Bytes that two processes see without a copy: memory files without a name, gone with their last user."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import threading
import weakref

KEPT_BYTES = 128 * 1024 * 1024
"""Most memory that is kept for later answers: filling pages that are there costs a quarter of making them."""

_F_ADD_SEALS = 1033
_SEAL_SHRINK, _SEAL_GROW, _SEAL_WRITE = 2, 4, 8


def _make_memory_file(name: str) -> int:
    return os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)


class SharedFile:
    """A file's bytes as workers see them; nobody can change them.

    It is given back with the last reference: a call in another thread may still need it when its caller has given up.
    """

    def __init__(self, data: bytes) -> None:
        self._descriptor = _make_memory_file("maifs-file")
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        fcntl.fcntl(self._descriptor, _F_ADD_SEALS, _SEAL_SHRINK | _SEAL_GROW | _SEAL_WRITE)

    def fileno(self) -> int:
        """Its descriptor, valid as long as this object."""
        return self._descriptor

    def __del__(self) -> None:
        os.close(self._descriptor)


class AnswerFile:
    """Where a worker writes what it returns. It never shrinks, so that no mapping of it can be pulled away."""

    def __init__(self) -> None:
        self._descriptor = _make_memory_file("maifs-answer")
        fcntl.fcntl(self._descriptor, _F_ADD_SEALS, _SEAL_SHRINK)
        self._mapping: mmap.mmap | None = None

    def fileno(self) -> int:
        """Its descriptor, valid as long as this object."""
        return self._descriptor

    @property
    def size_bytes(self) -> int:
        """Its size now."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, size_bytes: int) -> bytes:
        """A copy of a part."""
        return os.pread(self._descriptor, size_bytes, offset)

    def map(self) -> ctypes.Array[ctypes.c_char]:
        """All of it, without a copy; views of the array keep the array alive."""
        size_bytes = self.size_bytes
        if self._mapping is None or len(self._mapping) != size_bytes:
            self._mapping = mmap.mmap(self._descriptor, size_bytes)
        return (ctypes.c_char * size_bytes).from_buffer(self._mapping)

    def __del__(self) -> None:
        os.close(self._descriptor)


class AnswerStore:
    """Answer files that wait for their next use. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a collection of garbage may give one back in the middle of anything here
        self._free: list[AnswerFile] = []

    def take(self, expected_bytes: int) -> AnswerFile:
        """A file for an answer: a kept one when a large answer is expected."""
        with self._lock:
            if expected_bytes >= mmap.PAGESIZE and self._free:
                fitting = [file for file in self._free if file.size_bytes >= expected_bytes]
                chosen = min(fitting or self._free, key=lambda file: abs(file.size_bytes - expected_bytes))
                self._free.remove(chosen)
                return chosen
        return AnswerFile()

    def lend(self, file: AnswerFile) -> memoryview:
        """What is in a file; when the last view of it is gone, the file is kept for the next answer."""
        whole = file.map()
        weakref.finalize(whole, self.give_back, file).atexit = False
        return memoryview(whole).cast("B")

    def give_back(self, file: AnswerFile) -> None:
        """Keeps a file that nobody uses any more, unless too much is kept already."""
        with self._lock:
            if file.size_bytes + sum(kept.size_bytes for kept in self._free) <= KEPT_BYTES:
                self._free.append(file)
