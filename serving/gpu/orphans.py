"""Processes of an engine whose service is gone, with a GPU or without."""

from __future__ import annotations

from pathlib import Path

from serving.gpu.owners import Owner, owner_of, parent_of
from serving.gpu.units import is_ours

ENGINE_PREFIX = "VLLM::"
"""vLLM names its processes so."""
_ADOPTERS = ("systemd", "init", "tini", "dumb-init")


def find_orphans(proc: Path = Path("/proc")) -> tuple[Owner, ...]:
    """Engine processes outside of the services' units whose parent has left them to the host's first process.

    The engine of an embedded run has its service as parent and is none.
    """
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        owner = owner_of(int(folder.name), proc)
        if owner.command.startswith(ENGINE_PREFIX) and not is_ours(owner.unit) and _is_left(owner.pid, proc):
            found.append(owner)
    return tuple(sorted(found, key=lambda owner: owner.pid))


def _is_left(pid: int, proc: Path) -> bool:
    parent = parent_of(pid, proc)
    return parent in {0, 1} or owner_of(parent, proc).command.startswith(_ADOPTERS)
