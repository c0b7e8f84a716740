"""Who a process is: its systemd unit, user and command, from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Owner:
    """A process. Texts are empty where the kernel does not tell them to this user."""

    pid: int
    unit: str
    command: str

    def __str__(self) -> str:
        name = f"process {self.pid}"
        name += f" ({self.command})" if self.command else ""
        return name + (f" of {self.unit}" if self.unit else " of no known unit")


def owner_of(pid: int, proc: Path = Path("/proc")) -> Owner:
    """The owner of a process; one that is gone has neither unit nor command."""
    return Owner(pid, unit_of(pid, proc), _read(proc / str(pid) / "comm").strip())


def unit_of(pid: int, proc: Path = Path("/proc")) -> str:
    """The systemd unit in whose control group a process is, e.g. "maifs-llm.service"; empty when in none."""
    for line in _read(proc / str(pid) / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" or controllers == "name=systemd":
            unit = _unit_in(path)
            if unit:
                return unit
    return ""


def _unit_in(path: str) -> str:
    """The innermost service or scope of a control group's path."""
    parts = path.split("/")
    return next((part for part in reversed(parts) if part.endswith((".service", ".scope"))), "")


def same_service(pid: int, proc: Path = Path("/proc")) -> bool:
    """Whether a process belongs to this one's service: the same unit, or, outside of units, a descendant."""
    own = unit_of(os.getpid(), proc)
    if own.endswith(".service"):
        return unit_of(pid, proc) == own
    return os.getpid() in _ancestry(pid, proc)


def _ancestry(pid: int, proc: Path) -> list[int]:
    """A process and its parents up to the first."""
    found: list[int] = []
    while pid > 0 and pid not in found:
        found.append(pid)
        pid = parent_of(pid, proc)
    return found


def parent_of(pid: int, proc: Path = Path("/proc")) -> int:
    """The parent of a process; 0 when it has none or is gone."""
    # The command in parentheses may hold blanks and parentheses itself.
    fields = _read(proc / str(pid) / "stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8", errors="replace")
    except OSError:
        return ""
