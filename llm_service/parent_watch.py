"""No orphans: every process of the engine ends when the service dies, whatever it died of.

vLLM's engine processes outlive a parent that was killed with SIGKILL and keep its GPU memory. A ParentWatch rides in
the engine's configuration, which each of its processes unpickles first of all; there it starts a thread that waits
for the service's end.
"""

from __future__ import annotations

import os
import select
import signal
import threading


class ParentWatch:
    """Placed in VllmConfig.additional_config, where vLLM wants an object with `compute_hash`.

    Args:
        service_pid: process whose end ends all others that hold a copy of this object.
    """

    def __init__(self, service_pid: int) -> None:
        self.service_pid = service_pid

    def compute_hash(self) -> str:
        """The key by which vLLM keeps compiled code, on which this object has no influence."""
        return ""

    def __reduce__(self) -> tuple[object, ...]:
        return (_watched, (self.service_pid,))


_watching: set[int] = set()


def _watched(service_pid: int) -> ParentWatch:
    if service_pid != os.getpid() and (os.getpid() not in _watching):
        _watching.add(os.getpid())  # by pid, for a forked copy of this module has no thread yet
        _start(service_pid)
    return ParentWatch(service_pid)


def _start(service_pid: int) -> None:
    try:
        descriptor = os.pidfd_open(service_pid)
    except ProcessLookupError:
        _end()
        return
    threading.Thread(target=_wait, args=(descriptor,), name="maifs-parent-watch", daemon=True).start()


def _wait(descriptor: int) -> None:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll()
    _end()


def _end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)  # a cleaner end would wait for peers that are gone
