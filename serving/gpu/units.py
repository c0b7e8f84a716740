"""What systemd says of the services' units."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serving.gpu.dropins import COORDINATOR_UNIT, LLM_UNIT, NVIDIA_MAJOR, VISION_INSTANCE, VISION_UNIT

UNITS = (VISION_UNIT, LLM_UNIT, COORDINATOR_UNIT)
_VISION_INSTANCES = VISION_INSTANCE.format("*")
_CONTROL_MINOR = 255
_PROPERTIES = (
    "Id,LoadState,ActiveState,SubState,Result,MainPID,NRestarts,StatusText,ControlGroup,DevicePolicy,DeviceAllow,"
    "Environment,NeedDaemonReload"
)


def is_ours(name: str) -> bool:
    """Whether a unit is one of the services."""
    return name in UNITS or fnmatch.fnmatchcase(name, _VISION_INSTANCES)


def uses_gpu(name: str) -> bool:
    """Whether a unit may have a GPU."""
    return is_ours(name) and name != COORDINATOR_UNIT


@dataclass(frozen=True)
class Unit:
    """A unit as it is loaded and running, drop-ins and `systemctl set-property` included."""

    name: str
    load: str
    """"loaded", "not-found", ..."""
    active: str
    sub: str
    result: str
    main_pid: int
    """0 when it does not run."""
    restarts: int
    status: str
    control_group: str
    """Path below /sys/fs/cgroup; empty when it does not run."""
    device_policy: str
    """"auto", "closed" or "strict"."""
    device_allow: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """As configured in the unit."""
    needs_reload: bool = False
    """Whether its files have changed since systemd read them."""

    @property
    def loaded(self) -> bool:
        """Whether the unit is installed."""
        return self.load == "loaded"

    @property
    def allowed_minors(self) -> frozenset[int]:
        """Minors of the GPUs that the device policy names."""
        pattern = rf"/dev/(?:char/{NVIDIA_MAJOR}:|nvidia)(\d+) "
        found = {int(match[1]) for text in self.device_allow if (match := re.match(pattern, text + " "))}
        return frozenset(found - {_CONTROL_MINOR})

    @property
    def allows_every_gpu(self) -> bool:
        """Whether the device policy leaves all GPUs open."""
        if self.device_policy not in {"closed", "strict"}:
            return not self.device_allow
        return any(re.match(r"char-(nvidia|nvidia\*|nvidia-frontend|\*) ", text + " ") for text in self.device_allow)

    @property
    def visible_devices(self) -> tuple[str, ...]:
        """CUDA_VISIBLE_DEVICES as configured."""
        return tuple(part for part in self.environment.get("CUDA_VISIBLE_DEVICES", "").split(",") if part)


def read_units() -> tuple[Unit, ...] | None:
    """The state of the services' units, further vision services included; None where systemd does not run."""
    if shutil.which("systemctl") is None or not Path("/run/systemd/system").is_dir():
        return None
    command = ["systemctl", "show", "--no-pager", f"--property={_PROPERTIES}", *UNITS, _VISION_INSTANCES]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_units(result.stdout) if result.returncode == 0 else None


def parse_units(text: str) -> tuple[Unit, ...]:
    """Units from the output of `systemctl show`: a block of NAME=VALUE lines for each."""
    return tuple(_unit(block.splitlines()) for block in text.strip().split("\n\n") if block.strip())


def _unit(lines: Sequence[str]) -> Unit:
    values: dict[str, str] = {}
    allow: list[str] = []
    for line in lines:
        name, _, value = line.partition("=")
        if name == "DeviceAllow":
            allow.append(value)
        else:
            values[name] = value
    pairs = (part.partition("=") for part in _words(values.get("Environment", "")))
    return Unit(
        name=values.get("Id", ""),
        load=values.get("LoadState", ""),
        active=values.get("ActiveState", ""),
        sub=values.get("SubState", ""),
        result=values.get("Result", ""),
        main_pid=_number(values.get("MainPID", "")),
        restarts=_number(values.get("NRestarts", "")),
        status=values.get("StatusText", ""),
        control_group=values.get("ControlGroup", ""),
        device_policy=values.get("DevicePolicy", ""),
        device_allow=tuple(allow),
        environment={name: value for name, _, value in pairs},
        needs_reload=values.get("NeedDaemonReload", "") == "yes",
    )


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return text.split()


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0
