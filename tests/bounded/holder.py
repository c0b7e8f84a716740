"""A process with two workers, one of them in mid-call; prints their pids and waits to be killed."""

from __future__ import annotations

import os
import sys
import threading
import time

from serving.bounded.pool import BoundedPool, Bounds
from serving.bounded.shared import SharedFile
from tests.bounded.hostile_tasks import TASKS


def main() -> None:
    pool = BoundedPool(TASKS, 2)
    bounds = Bounds(3600, 1 << 28)
    folder = sys.argv[1]
    hanging = {"pid_file": f"{folder}/pid"}
    thread = threading.Thread(target=lambda: pool.call("hang", SharedFile(b"a"), hanging, bounds), daemon=True)
    thread.start()
    while not (os.path.exists(f"{folder}/pid") and open(f"{folder}/pid").read()):  # noqa: PTH110, PTH123, SIM115
        time.sleep(0.02)
    idle = pool.call("pid", SharedFile(b"a"), {}, bounds).value
    zygote = pool._launcher._zygote
    assert zygote is not None
    print(idle, open(f"{folder}/pid").read(), zygote.pid, flush=True)  # noqa: PTH123, SIM115
    time.sleep(3600)


if __name__ == "__main__":
    main()
