"""Processes that carry a ParentWatch end with the process it watches."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time

from llm_service.parent_watch import ParentWatch
from tests.processes import ROOT

CHILD = """
import pickle, sys, time
pickle.loads(sys.stdin.buffer.read())
print("watching", flush=True)
time.sleep(60)
"""


def start(watch: ParentWatch) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", CHILD], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin
    child.stdin.write(pickle.dumps(watch))
    child.stdin.close()
    return child


def test_child_ends_when_the_watched_process_is_killed() -> None:
    with subprocess.Popen(["sleep", "60"]) as watched:
        child = start(ParentWatch(watched.pid))
        try:
            assert child.stdout
            assert child.stdout.readline() == b"watching\n"
            assert child.poll() is None
            watched.kill()
            begin = time.monotonic()
            assert child.wait(10) < 0
            assert time.monotonic() - begin < 5
        finally:
            child.kill()


def test_child_that_comes_too_late_ends_at_once() -> None:
    with subprocess.Popen(["true"]) as watched:
        watched.wait()
    assert start(ParentWatch(watched.pid)).wait(10) < 0


def test_watched_process_itself_may_copy_the_watch() -> None:
    copy = pickle.loads(pickle.dumps(ParentWatch(os.getpid())))
    assert copy.service_pid == os.getpid()
    assert copy.compute_hash() == ParentWatch(1).compute_hash()
