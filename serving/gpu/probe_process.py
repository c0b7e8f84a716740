"""Tries the device nodes from inside a unit's control group: `python -m serving.gpu.probe_process CGROUP MINOR...`.

A device policy binds the processes of a control group. Only one of them can prove it, so this process joins the group,
looks, and ends; that needs root.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from serving.gpu.pin import PinProof, PinState, probe

CGROUP_ROOT = Path("/sys/fs/cgroup")


def probe_unit(control_group: str, own_minors: frozenset[int]) -> PinProof | None:
    """The proof of a running unit; None when it cannot be had (not root, unit gone, old control groups).

    Args:
        control_group: path below /sys/fs/cgroup as systemd tells it.
        own_minors: minors of the GPUs that the unit should have.
    """
    folder = CGROUP_ROOT / control_group.lstrip("/")
    if not control_group or not (folder / "cgroup.procs").exists():
        return None
    command = [sys.executable, "-m", "serving.gpu.probe_process", str(folder), *map(str, sorted(own_minors))]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
        table = json.loads(result.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    numbers = (tuple(table[name]) for name in ("denied", "reachable", "own_denied"))
    return PinProof(PinState(table["state"]), *numbers)


def main(folder: str, *minors: str) -> None:
    """Joins the control group and prints the proof as JSON."""
    Path(folder, "cgroup.procs").write_text("0")
    proof = probe(map(int, minors))
    table = {"state": proof.state, "denied": proof.denied, "reachable": proof.reachable, "own_denied": proof.own_denied}
    print(json.dumps(table))


if __name__ == "__main__":
    main(*sys.argv[1:])
