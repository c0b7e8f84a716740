"""A task may crash, hang, or take memory without end: its worker dies, the caller knows, the next call is served."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.bounded.pool import BoundedPool, Bounds
from serving.bounded.shared import KEPT_BYTES, AnswerFile, AnswerStore, SharedFile
from serving.errors import MaifsError, Reason
from tests.bounded.hostile_tasks import TASKS

AMPLE = Bounds(time_s=120, memory_bytes=1 << 28)


@pytest.fixture(name="pool", scope="module")
def _pool() -> Iterator[BoundedPool]:
    pool = BoundedPool(TASKS, 1)
    yield pool
    pool.close()


def echoed(pool: BoundedPool, data: bytes = b"abc") -> bytes:
    answer = pool.call("echo", SharedFile(data), {}, AMPLE, len(data))
    assert answer.value == len(data)
    return bytes(answer.buffers[0])


def gone(pid: int) -> bool:
    """Whether a process is dead; one that only waits to be reaped is."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_gone(*pids: int) -> None:
    deadline = time.monotonic() + 60
    while not all(map(gone, pids)):
        assert time.monotonic() < deadline, [pid for pid in pids if not gone(pid)]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("task", "bounds", "said"),
    [
        ("segfault", AMPLE, "SIGSEGV"),
        ("abort", AMPLE, "SIGABRT"),
        ("leave", AMPLE, "exit status 3"),
        ("hang", Bounds(0.5, 1 << 28), "longer than 0.5 s"),
        ("devour", Bounds(120, 1 << 27), "more than 128 MiB"),
        ("lie", AMPLE, "cannot be read"),
    ],
)
def test_what_a_codec_does_ends_its_worker_alone(pool: BoundedPool, task: str, bounds: Bounds, said: str) -> None:
    before = pool.call("pid", SharedFile(b"a"), {}, AMPLE).value
    with pytest.raises(MaifsError, match=said) as caught:
        pool.call(task, SharedFile(b"a"), {}, bounds)
    assert caught.value.reason is Reason.DECODER_FAILED
    assert caught.value.retry_after_s == 0
    assert gone(before)
    assert echoed(pool) == b"abc"


def test_a_tasks_own_errors_cost_no_worker(pool: BoundedPool) -> None:
    before = pool.call("pid", SharedFile(b"a"), {}, AMPLE).value
    with pytest.raises(MaifsError, match="cut short") as caught:
        pool.call("refuse", SharedFile(b"a"), {}, AMPLE)
    assert (caught.value.reason, caught.value.advice) == (Reason.CORRUPT_IMAGE, "look")
    with pytest.raises(RuntimeError, match="KeyError: 'surprise'"):
        pool.call("bug", SharedFile(b"a"), {}, AMPLE)
    assert pool.call("pid", SharedFile(b"a"), {}, AMPLE).value == before


def test_a_worker_that_somebody_kills_is_replaced_and_the_call_repeated(pool: BoundedPool, tmp_path: Path) -> None:
    assert pool.call("die", SharedFile(b"a"), {"marker": str(tmp_path / "seen")}, AMPLE).value == 7
    os.kill(pool.call("pid", SharedFile(b"a"), {}, AMPLE).value, 9)
    assert echoed(pool) == b"abc"


def test_a_zygote_that_somebody_kills_is_replaced_and_takes_its_workers_along(pool: BoundedPool) -> None:
    worker = pool.call("pid", SharedFile(b"a"), {}, AMPLE).value
    zygote = pool._launcher._zygote
    assert zygote is not None
    zygote.kill()
    wait_gone(worker)
    assert echoed(pool) == b"abc"


def test_calls_at_a_time_wait_for_a_worker(pool: BoundedPool) -> None:
    answers: list[bytes] = []
    threads = [threading.Thread(target=lambda: answers.append(echoed(pool, b"x" * 5000))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert answers == [b"x" * 5000] * 6


def test_answers_outlive_later_calls_and_leave_no_descriptor(pool: BoundedPool) -> None:
    echoed(pool)
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    large = [pool.call("echo", SharedFile(bytes([n]) * 9000), {}, AMPLE, 9000).buffers[0] for n in range(4)]
    assert [bytes(view) for view in large] == [bytes([n]) * 9000 for n in range(4)]
    del large
    gc.collect()
    kept = len(pool._answers._free)
    assert len(os.listdir("/proc/self/fd")) <= before + 2 * kept  # noqa: PTH208


def test_a_shared_file_cannot_be_changed_and_an_answer_cannot_shrink() -> None:
    file = SharedFile(b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(file.fileno(), b"x", 0)
    answer = AnswerFile()
    os.pwrite(answer.fileno(), b"abc", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(answer.fileno(), 1)


def test_no_more_memory_is_kept_than_promised() -> None:
    store = AnswerStore()
    for _ in range(3):
        file = AnswerFile()
        os.ftruncate(file.fileno(), KEPT_BYTES // 2)
        store.give_back(file)
    assert sum(file.size_bytes for file in store._free) == KEPT_BYTES


def test_a_service_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.bounded.holder", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pids = [int(text) for text in holder.stdout.readline().split()]
        assert len(pids) == 3
        assert not any(map(gone, pids))
        holder.kill()
    wait_gone(*pids)
