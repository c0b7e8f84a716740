"""Keeps a service on its own GPUs: resolve, claim, set the environment before CUDA starts, prove it afterwards.

The order in a service: `claim` before anything starts CUDA, `verify_cuda` after, `probe` before READY.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from serving.errors import MaifsError, Reason
from serving.gpu.inventory import Gpu, Inventory
from serving.gpu.owners import owner_of, same_service

VISIBLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"


def resolve(selectors: Sequence[str], inventory: Inventory) -> tuple[Gpu, ...]:
    """The GPUs that a configuration means.

    Args:
        selectors: full UUIDs ("GPU-..."), or NVML indexes in decimal.
        inventory: all GPUs that this process can see.

    Raises:
        MaifsError: INVALID_CONFIG naming what is not there, what is named twice, or a GPU that is split by MIG.
    """
    found: list[Gpu] = []
    for text in selectors:
        gpu = _select(text.strip(), inventory)
        if gpu is None:
            known = "; ".join(f"{gpu.index} = {gpu.uuid}" for gpu in inventory.gpus) or "none"
            raise _misconfigured(
                f"There is no GPU {text!r} here; visible are: {known}.",
                "Name full UUIDs. A unit with a device policy sees its own GPUs alone, counted from 0.",
            )
        if gpu in found:
            raise _misconfigured(f"GPU {gpu.uuid} is named twice.", "Name each GPU once.")
        if gpu.mig:
            raise _misconfigured(f"GPU {gpu.uuid} is split by MIG.", "Disable MIG on it: nvidia-smi -i INDEX -mig 0.")
        found.append(gpu)
    return tuple(found)


def _select(text: str, inventory: Inventory) -> Gpu | None:
    if text.isdigit():
        return next((gpu for gpu in inventory.gpus if gpu.index == int(text)), None)
    return inventory.by_uuid(text)


def claim(
    selectors: Sequence[str],
    inventory: Inventory,
    *,
    allow_busy: bool = False,
    environ: MutableMapping[str, str] | None = None,
    is_ours: Callable[[int], bool] = same_service,
) -> tuple[Gpu, ...]:
    """Resolves a service's GPUs, refuses those in use by others, and shows CUDA these alone.

    Args:
        selectors: see `resolve`; at least one.
        inventory: all GPUs that this process can see.
        allow_busy: whether a GPU may be shared with foreign processes.
        environ: environment to change; the process's when not given.
        is_ours: whether a process belongs to this service.

    Raises:
        MaifsError: INVALID_CONFIG for a wrong selector, or when CUDA has started already and would not notice;
            BACKEND_UNAVAILABLE when a foreign process holds one of the GPUs.
    """
    if _cuda_started():
        raise _misconfigured("CUDA has started before the GPUs were chosen; it would use others.", "")
    gpus = resolve(selectors, inventory)
    foreign = [] if allow_busy else foreign_processes(gpus, is_ours)
    if foreign:
        raise MaifsError(
            Reason.BACKEND_UNAVAILABLE,
            "A GPU of this service is in use: " + "; ".join(foreign) + ".",
            "Stop that process or give this service another GPU; `coordinator-cli gpu check` shows who holds what.",
            retry_after_s=30.0,
        )
    environ = os.environ if environ is None else environ
    environ[VISIBLE] = ",".join(gpu.uuid for gpu in gpus)
    environ[ORDER] = "PCI_BUS_ID"
    return gpus


def _cuda_started() -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def foreign_processes(gpus: Iterable[Gpu], is_ours: Callable[[int], bool] = same_service) -> list[str]:
    """Processes of others on these GPUs, each as one phrase with its unit."""
    return [
        f"GPU {gpu.index} by {owner_of(process.pid)}"
        for gpu in gpus
        for process in gpu.processes
        if not is_ours(process.pid)
    ]


def verify_cuda(gpus: Sequence[Gpu], torch: Any) -> None:
    """Compares what CUDA opened with what was claimed.

    Args:
        gpus: what `claim` returned.
        torch: the module torch, or what looks like it.

    Raises:
        MaifsError: INVALID_CONFIG when a GPU is missing, foreign or in another place.
    """
    count = int(torch.cuda.device_count())
    opened = [_full_uuid(torch.cuda.get_device_properties(number).uuid) for number in range(count)]
    wanted = [gpu.uuid for gpu in gpus]
    if opened != wanted:
        raise _misconfigured(
            f"CUDA opened {', '.join(opened) or 'no GPU'} instead of {', '.join(wanted)}.",
            f"Something set {VISIBLE} or started CUDA earlier, or the unit's device policy denies one of them.",
        )


def _full_uuid(value: object) -> str:
    """NVML's form of a UUID; torch leaves "GPU-" out."""
    text = str(value)
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


class PinState(StrEnum):
    """How a service is kept on its GPUs."""

    NONE = "none"
    """No GPU is configured: nothing is pinned."""
    ENFORCED = "enforced"
    """The kernel refuses the other GPUs."""
    ADVISORY = "advisory"
    """Only environment variables keep the service on its GPUs."""
    VIOLATED = "violated"
    """A device policy is in force and does not fit: it lets foreign GPUs through or denies the service's own."""


@dataclass(frozen=True)
class PinProof:
    """What opening the device nodes showed. Numbers are minors."""

    state: PinState
    denied: tuple[int, ...]
    """Foreign nodes that the kernel refused with EPERM."""
    reachable: tuple[int, ...]
    """Foreign nodes that it did not."""
    own_denied: tuple[int, ...]

    def __str__(self) -> str:
        if self.own_denied:
            return f"violated: the device policy denies the service's own {_nodes(self.own_denied)}"
        if self.state is PinState.VIOLATED:
            return f"violated: the device policy lets {_nodes(self.reachable)} through"
        if self.state is PinState.ADVISORY:
            return f"advisory: {_nodes(self.reachable)} can be opened too"
        return f"enforced: {_nodes(self.denied)} refused" if self.denied else "enforced: there is no other GPU"


def _nodes(minors: Sequence[int]) -> str:
    return ", ".join(f"/dev/nvidia{minor}" for minor in minors)


def probe(own_minors: Iterable[int], dev: Path = Path("/dev")) -> PinProof:
    """Tries to open every GPU's device node, as anybody in this service could.

    Only EPERM is the device policy's answer. EACCES comes from the node's own mode, which root and a new udev rule
    pass by, and ENXIO from a node without a driver: neither proves a pin.

    Args:
        own_minors: minors of the service's own GPUs.
        dev: folder of the device nodes.
    """
    own = set(own_minors)
    answers = {minor: _open_node(dev / f"nvidia{minor}") for minor in node_minors(dev)}
    foreign = sorted(set(answers) - own)
    denied = tuple(minor for minor in foreign if answers[minor] == errno.EPERM)
    reachable = tuple(minor for minor in foreign if answers[minor] != errno.EPERM)
    own_denied = tuple(sorted(minor for minor in own if answers.get(minor) == errno.EPERM))
    if own_denied or (denied and reachable):
        state = PinState.VIOLATED
    else:
        state = PinState.ADVISORY if reachable else PinState.ENFORCED
    return PinProof(state, denied, reachable, own_denied)


def node_minors(dev: Path = Path("/dev")) -> tuple[int, ...]:
    """Minors of the GPUs' device nodes by their names."""
    names = (re.fullmatch(r"nvidia(\d+)", path.name) for path in dev.iterdir())
    return tuple(sorted(int(match[1]) for match in names if match))


def _open_node(path: Path) -> int:
    """0 when the node opens, else the error number."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def require(proof: PinProof, *, enforced: bool) -> None:
    """Refuses a pin that does not hold.

    Args:
        proof: from `probe`.
        enforced: whether environment variables alone are not enough.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    if proof.state is PinState.VIOLATED or (enforced and proof.state is PinState.ADVISORY):
        raise _misconfigured(
            f"The GPU pin does not hold ({proof}).",
            "Write the unit's drop-in anew (coordinator-cli gpu apply --write) and restart it; where the kernel has no "
            "BPF device control, systemd starts units without their device policy.",
        )


def _misconfigured(message: str, advice: str) -> MaifsError:
    return MaifsError(Reason.INVALID_CONFIG, message, advice)
