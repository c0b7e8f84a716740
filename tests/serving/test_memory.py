"""Large buffers are reused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import ROOT

SCRIPT = """
import resource, sys
from serving.memory import keep_large_buffers
if sys.argv[1] == "yes":
    assert keep_large_buffers()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
sizes = [1 << 20, 2 << 20, 4 << 20, 16 << 20]  # growing, so that glibc's own adaptation comes too late each time
for size in sizes: bytearray(size)
before = faults()
for _ in range(8):
    for size in sizes: bytearray(size)
print(faults() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_buffers_that_are_taken_again_and_again_cause_no_page_faults() -> None:
    counts = {}
    for kept in ("yes", "no"):
        command = [sys.executable, "-c", SCRIPT, kept]
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        counts[kept] = int(result.stdout)
    assert counts["yes"] < counts["no"] / 10
