"""A real systemd as process 1, on this machine's own files seen through an overlay that is thrown away.

Needs root, systemd-nspawn and control groups of version 2 inside; it boots in about a second.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.conftest import ROOT

SOURCE, SITE, PYTHON, SHARED = "/opt/maifs/src", "/opt/maifs/site", "/opt/maifs/python", "/opt/maifs/shared"
VENV = "/opt/maifs/venv"
_BOOT_S = 30.0
_COMMANDS = {
    "vision-service": "vision_service.__main__",
    "coordinator-service": "coordinator.__main__",
    "llm-service": "llm_service.__main__",
    "coordinator-cli": "coordinator.cli.__main__",
}


class Booted:
    """The running system."""

    def __init__(self, leader: int, shared: Path) -> None:
        self._leader = leader
        self.shared = shared
        """Folder that is SHARED inside, read-only there."""

    def run(
        self, *command: str, check: bool = True, timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command inside as root."""
        enter = ["nsenter", "-t", str(self._leader), *("-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w")]
        result = subprocess.run(
            [*enter, *command],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(env or {})},
        )
        assert not check or result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result

    def shell(self, script: str, timeout_s: float = 60.0) -> str:
        """Runs a script inside as root; returns what it wrote."""
        return self.run("/bin/bash", "-euc", script, timeout_s=timeout_s).stdout

    def install(self) -> str:
        """Units, users and settings, by the installer; returns what it said."""
        return self.run(f"{VENV}/bin/coordinator-cli", "install", "--cpu").stdout

    def write(self, path: str, text: str) -> None:
        """Writes a file inside."""
        target = shlex.quote(path)
        self.shell(f'mkdir -p "$(dirname {target})"; printf %s {shlex.quote(text)} > {target}')

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", "-p", name, unit).stdout.strip()

    def wait_for(self, unit: str, name: str, *wanted: str, timeout_s: float = 60.0) -> str:
        """Waits until a property has one of these values; fails with the unit's journal."""
        end = time.monotonic() + timeout_s
        while (value := self.show(unit, name)) not in wanted:
            if time.monotonic() > end:
                pytest.fail(f"{unit}: {name} = {value}\n{self.journal(unit)}")
            time.sleep(0.2)
        return value

    def journal(self, unit: str) -> str:
        """The last lines of a unit's journal."""
        return self.run("journalctl", "-u", unit, "-n", "40", "--no-pager", "-o", "cat", check=False).stdout


@contextlib.contextmanager
def boot() -> Iterator[Booted]:
    """Boots, installs a virtual environment at /opt/maifs/venv, and powers off at the end."""
    _skip_where_impossible()
    with tempfile.TemporaryDirectory(prefix="maifs-boot-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "root").mkdir()
        (folder / "shared").mkdir(mode=0o755)
        folder.chmod(0o755)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", _script(folder)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        system = None
        try:
            system = Booted(_leader(process, folder / "log"), folder / "shared")
            system.run("systemctl", "is-system-running", "--wait", check=False)
            system.shell(_install_python())
            yield system
        finally:
            if system:
                system.run("systemctl", "poweroff", check=False)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _skip_where_impossible() -> None:
    missing = [name for name in ("systemd-nspawn", "nsenter", "unshare") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} (Debian: systemd-container)")
    if os.geteuid() != 0:
        pytest.skip("booting a systemd needs root")


def _script(folder: Path) -> str:
    root = folder / "root"
    binds = {ROOT: SOURCE, Path(sys.prefix): SITE, Path(sys.base_prefix): PYTHON, folder / "shared": SHARED}
    options = " ".join(f"--bind-ro={path}:{inside}" for path, inside in binds.items())
    # Without all capabilities and the system call bpf inside, systemd leaves the device policy out without a word.
    return f"""
exec unshare -m --propagation private bash -c '
mount --bind / {root}; cd /
export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_LOG_LEVEL=warning
exec systemd-nspawn -q -D {root} --volatile=overlay --register=no --keep-unit --private-network --capability=all \
 --system-call-filter=bpf --link-journal=no --console=pipe --hostname=maifs-test {options} \
 -b systemd.unit=basic.target systemd.mask=systemd-modules-load.service'
"""


def _leader(process: subprocess.Popen[bytes], log: Path) -> int:
    """Process 1 of the system as it is seen from here, once it answers."""
    end = time.monotonic() + _BOOT_S
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError, IndexError, ValueError):
            leader = int(children.read_text().split()[0])
            if Path(f"/proc/{leader}/root/run/systemd/private").is_socket():
                return leader
        time.sleep(0.1)
    process.kill()
    pytest.skip(f"systemd does not boot in a container here: {log.read_text(errors='replace')[-400:]}")


def _install_python() -> str:
    """A virtual environment outside of the home folders, which the units cannot see."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    lines = [
        "mkdir -p /opt/maifs/venv/bin",
        f"ln -s {SITE}/lib /opt/maifs/venv/lib",
        f"ln -s {PYTHON}/bin/python{version} /opt/maifs/venv/bin/python",
        f"printf 'home = {PYTHON}/bin\\ninclude-system-site-packages = false\\n' > /opt/maifs/venv/pyvenv.cfg",
    ]
    # An interpreter with a shared library looks for it where it was built, which the units cannot see.
    lines.append(f"echo {PYTHON}/lib > /etc/ld.so.conf.d/000-maifs.conf; ldconfig")
    for command, module in _COMMANDS.items():
        text = (
            "#!/opt/maifs/venv/bin/python\\nimport os\\nimport sys\\n"
            # For child processes too: the checkout that the environment points to may not be visible inside.
            f'os.environ["PYTHONPATH"] = "{SOURCE}"\\n'
            f'sys.path.insert(0, "{SOURCE}")\\nfrom {module} import main\\n'
            'if __name__ == "__main__":\\n    sys.exit(main())\\n'
        )
        lines.append(f"printf '{text}' > /opt/maifs/venv/bin/{command}; chmod 755 /opt/maifs/venv/bin/{command}")
    return "\n".join(lines)
