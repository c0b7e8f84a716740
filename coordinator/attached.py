"""Runs a module as a process that ends with its parent: `python -m coordinator.attached FOLDER MODULE ARGS`.

Standard input must be a pipe whose other end the parent holds open. When the parent dies, however it dies, the kernel
closes that end: the process gets SIGTERM and, if it has not ended after `GRACE_S`, its whole process group is killed,
so that processes which the module started go too. The parent must therefore start it in a session of its own. FOLDER,
the parent's private folder, is removed then by each that ends, since the parent no longer can.
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
STOPPING = b"."
"""What the parent writes before it stops the process itself: then it removes the folder too."""

_PR_SET_PDEATHSIG = 1
_TOLD_WAIT_S = 0.5


class Attachment:
    """Ties this process to its parent's life, and the folder with it.

    The kernel's own signal (prctl, Linux) reaches the process even while the interpreter is busy inside a C library,
    but ends neither a stuck process nor its children; the thread does. The signal may come before the module has a
    handler of its own, and, when the parent has other threads, before the parent is gone for good and the pipe closed:
    hence the wait in `tidy`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told, self._orphaned = threading.Event(), False
        signal.signal(signal.SIGTERM, self._end_early)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
        threading.Thread(target=self._end_with_parent, name="end-with-parent", daemon=True).start()

    def tidy(self) -> None:
        """The last deed of the process: removes the folder when the parent no longer can."""
        self._told.wait(_TOLD_WAIT_S)
        if self._orphaned:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _end_early(self, *_: object) -> None:
        self.tidy()
        os._exit(128 + signal.SIGTERM)

    def _end_with_parent(self) -> None:
        while os.read(0, 1):
            self._told.set()
        self._orphaned = True
        self._told.set()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        self.tidy()
        os.killpg(os.getpgrp(), signal.SIGKILL)


def main() -> None:
    """See module."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m coordinator.attached FOLDER MODULE [ARGUMENT...]")
    if os.getpgrp() != os.getpid():
        sys.exit("coordinator.attached: must be started in a session of its own")
    attachment = Attachment(Path(sys.argv[1]))
    del sys.argv[:2]
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    finally:
        attachment.tidy()


if __name__ == "__main__":
    main()
