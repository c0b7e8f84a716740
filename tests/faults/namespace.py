"""A mount namespace for a service: its disk is small, or its host names are what a test says.

A process of its own holds the namespace open; the mounts are gone when it ends, whatever ends the test. Needs the
right to make user and mount namespaces; where that is forbidden, tests skip with what the kernel said.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_UNSHARE = ("unshare", "--map-root-user", "--mount")


@dataclass(frozen=True)
class Namespace:
    """Mounts that only those see who enter."""

    pid: int
    """Of the process that holds it."""

    @property
    def prefix(self) -> Sequence[str]:
        """Command that runs another one inside."""
        return ("nsenter", f"--target={self.pid}", "--user", "--preserve-credentials", "--mount", f"--wd={Path.cwd()}")

    def path(self, inside: Path) -> Path:
        """Where a path that is seen inside is seen from outside."""
        return Path(f"/proc/{self.pid}/root{inside}")


@contextmanager
def namespace(*mounts: Sequence[str]) -> Iterator[Namespace]:
    """A namespace with these mounts.

    Args:
        mounts: arguments of mount(8), e.g. ("-t", "tmpfs", "-o", "size=4m", "tmpfs", "/tmp/disk").
    """
    steps = [" ".join(("mount", *mount)) for mount in mounts]
    script = " && ".join([*steps, "echo ready", "read line"])
    try:
        holder = subprocess.Popen(
            [*_UNSHARE, "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        pytest.skip(f"no mount namespace: {error}")
    try:
        assert holder.stdout
        assert holder.stderr
        if holder.stdout.readline().strip() != "ready":
            pytest.skip(f"no mount namespace: {holder.stderr.read().strip()}")
        yield Namespace(holder.pid)
    finally:
        holder.communicate()  # its standard input ends, and so does it
