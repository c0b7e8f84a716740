"""Calls to bounded workers: an answer, the task's own error, or a clear error about a worker that had to die."""

from __future__ import annotations

import json
import os
import queue
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from serving.bounded import packets
from serving.bounded.launcher import Launcher, WorkerProcess
from serving.bounded.shared import AnswerFile, AnswerStore, SharedFile
from serving.errors import MaifsError, Reason

CALLS_PER_WORKER = 1000
"""Then a worker is replaced: what codecs leak goes with it."""

_ADVICE = (
    "The file is damaged or made to do harm: open it in a sandbox if at all, and keep it for a report of the fault."
)


@dataclass(frozen=True)
class Bounds:
    """What one call may take."""

    time_s: float
    memory_bytes: int
    """Address space beyond that of an idle worker."""


@dataclass(frozen=True, eq=False)
class Answer:
    """What a task returned."""

    value: Any
    """From JSON."""
    buffers: tuple[memoryview, ...]
    """In the order in which the task made them, without a copy. Views keep their memory; with the last one it goes."""


class _WorkerLostError(Exception):
    """A worker died of something that may have nothing to do with its call."""


class BoundedPool:
    """Workers for a set of tasks. Thread-safe; calls block, so make them in threads.

    Args:
        tasks: "package.module:function" by name; a function takes a `worker.Call` and returns a JSON value.
        size: workers, which is also the number of calls at a time; further ones wait.
    """

    def __init__(self, tasks: Mapping[str, str], size: int) -> None:
        self._launcher = Launcher(tasks)
        self._slots: queue.LifoQueue[_Slot] = queue.LifoQueue()
        self._answers = AnswerStore()
        for _ in range(size):
            self._slots.put(_Slot())

    def start(self) -> None:
        """Begins to import the codecs, so that the first call need not wait for that."""
        self._launcher.start()

    def call(
        self, task: str, file: SharedFile, parameters: Mapping[str, Any], bounds: Bounds, expected_bytes: int = 0
    ) -> Answer:
        """Runs a task over a file.

        Args:
            task: name.
            file: what it works on.
            parameters: JSON object for it.
            bounds: what it may take.
            expected_bytes: about what its buffers hold, where that is much.

        Raises:
            MaifsError: what the task raised; DECODER_FAILED when it crashed, hung or wanted more memory than allowed.
            RuntimeError: the task has a fault of its own.
        """
        request = {"task": task, "parameters": dict(parameters), "memory_bytes": bounds.memory_bytes}
        slot = self._slots.get()
        try:
            try:
                return self._attempt(slot, request, file, bounds, expected_bytes)
            except _WorkerLostError:  # killed from outside, perhaps for another's memory: that is not the file's fault
                return self._attempt(slot, request, file, bounds, expected_bytes)
        except _WorkerLostError as error:
            raise _failed(f"was killed twice ({error})") from error
        finally:
            self._slots.put(slot)

    def close(self) -> None:
        """Ends all workers, those in the middle of a call too."""
        self._launcher.close()

    def _attempt(
        self, slot: _Slot, request: dict[str, Any], file: SharedFile, bounds: Bounds, expected_bytes: int
    ) -> Answer:
        if slot.process is None:
            slot.process, slot.calls = self._launcher.spawn(), 0
        output = self._answers.take(expected_bytes)
        sound = False
        try:
            reply = self._converse(slot, request, (file.fileno(), output.fileno()), bounds)
            sound = "exhausted" not in reply and slot.calls < CALLS_PER_WORKER
            return self._answer(reply, output, bounds)
        except MaifsError as error:
            sound = sound and error.reason is not Reason.DECODER_FAILED
            raise
        finally:
            if not sound and slot.process is not None:
                self._launcher.end(slot.process)
                slot.process = None

    def _converse(
        self, slot: _Slot, request: dict[str, Any], descriptors: tuple[int, int], bounds: Bounds
    ) -> dict[str, Any]:
        process = slot.process
        assert process is not None
        slot.calls += 1
        try:
            process.connection.settimeout(bounds.time_s)
            packets.send(process.connection, request, descriptors)
            return packets.receive(process.connection)[0]
        except TimeoutError:
            raise _failed(f"took longer than {bounds.time_s:g} s") from None
        except (EOFError, ConnectionError):
            slot.process = None
            raise _death(self._launcher.end(process)) from None

    def _answer(self, reply: dict[str, Any], output: AnswerFile, bounds: Bounds) -> Answer:
        _raise_failure(reply, bounds)
        try:
            extents = [(int(offset), int(size_bytes)) for offset, size_bytes in [*reply["buffers"], reply["value"]]]
            end = output.size_bytes
            if any(offset < 0 or size_bytes < 1 or offset + size_bytes > end for offset, size_bytes in extents):
                raise ValueError(f"parts {extents} of {end} bytes")
            value = json.loads(output.read(*extents.pop()))
        except (ValueError, TypeError, KeyError) as error:
            raise _failed(f"gave an answer that cannot be read ({error})") from error
        if not extents:
            self._answers.give_back(output)
            return Answer(value, ())
        whole = self._answers.lend(output)
        return Answer(value, tuple(whole[offset : offset + size_bytes] for offset, size_bytes in extents))


class _Slot:
    """Place of one worker."""

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None
        self.calls = 0


def _death(status: int | None) -> Exception:
    if status is None:
        return _WorkerLostError("with the process that it was forked from")
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        name = signal.Signals(number).name
        return _WorkerLostError(name) if number in {signal.SIGKILL, signal.SIGTERM} else _failed(f"crashed ({name})")
    return _failed(f"ended its process (exit status {os.waitstatus_to_exitcode(status)})")


def _failed(what: str) -> MaifsError:
    return MaifsError(Reason.DECODER_FAILED, f"The decoder {what}; its process was ended.", _ADVICE)


def _raise_failure(reply: dict[str, Any], bounds: Bounds) -> None:
    if "exhausted" in reply:
        raise _failed(f"wanted more than {bounds.memory_bytes / 2**20:,.0f} MiB, which is ample for its announced size")
    if "fault" in reply:
        raise RuntimeError(str(reply["fault"]))
    if "error" in reply:
        reason, message, advice, retry_after_s = reply["error"]
        raise MaifsError(Reason[reason], message, advice, retry_after_s=retry_after_s)
