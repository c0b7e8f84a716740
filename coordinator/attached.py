"""Runs a module as a process that ends with its parent: `python -m coordinator.attached FOLDER MODULE ARGS`.

Standard input must be a pipe whose other end the parent holds open. When the parent dies, however it dies, the kernel
closes that end: the process gets SIGTERM and, if it has not ended after `GRACE_S`, its whole process group is killed,
so that processes which the module started go too. The parent must therefore start it in a session of its own. FOLDER,
the parent's private folder, is removed then, since the parent no longer can.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

GRACE_S = 10.0
"""Seconds between SIGTERM and SIGKILL after the parent's death."""

_PR_SET_PDEATHSIG = 1


def attach(folder: Path) -> None:
    """Ties this process to its parent's life, and the folder with it.

    The kernel's own signal (prctl, Linux) reaches the process even while the interpreter is busy inside a C library,
    but ends neither a stuck process nor its children; the thread does. It may come before the module has a handler of
    its own, when the default action would leave the folder behind.
    """
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: _end_early(folder, parent))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    threading.Thread(target=_end_with_parent, args=(folder,), name="end-with-parent", daemon=True).start()


def _end_early(folder: Path, parent: int) -> None:
    if os.getppid() != parent:
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def _end_with_parent(folder: Path) -> None:
    while os.read(0, 1):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """See module."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m coordinator.attached FOLDER MODULE [ARGUMENT...]")
    if os.getpgrp() != os.getpid():
        sys.exit("coordinator.attached: must be started in a session of its own")
    attach(Path(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
