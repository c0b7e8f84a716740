"""Everything that the check of a GPU host looks at, gathered once."""

from __future__ import annotations

import importlib.metadata
import itertools
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.gpu.certificate import Certificate, read_certificate
from serving.gpu.inventory import Gpu, Inventory, take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError, open_nvml
from serving.gpu.orphans import find_orphans
from serving.gpu.owners import Owner, owner_of
from serving.gpu.pin import PinProof, node_minors
from serving.gpu.probe_process import probe_unit
from serving.gpu.service_health import Health, health_of
from serving.gpu.units import Unit, read_units, uses_gpu

_PEER_READ = 0
"""NVML_P2P_CAPS_INDEX_READ, which the Python binding defines as a tuple by mistake."""


@dataclass(frozen=True)
class Xid:
    """An error that the driver wrote into the kernel's log since the host booted."""

    pci_bus_id: str
    """As NVML writes it, e.g. "00000000:07:00.0"."""
    code: int


@dataclass(frozen=True)
class Snapshot:
    """The state of a host."""

    inventory: Inventory | None
    """None: no driver, or a GPU is lost."""
    fault: str
    """Why there is no inventory."""
    gpu_lost: bool
    owners: Mapping[int, Owner]
    """Of every process on a GPU."""
    units: tuple[Unit, ...] | None
    """None where systemd does not run."""
    environments: Mapping[str, Mapping[str, str]]
    """CUDA_* variables of the running main process, by unit; units whose process cannot be read are missing."""
    proofs: Mapping[str, PinProof]
    """By unit; missing where it could not be had."""
    minors: tuple[int, ...]
    """Device nodes of GPUs that exist."""
    has_control_node: bool
    has_uvm_node: bool
    xids: tuple[Xid, ...]
    no_peer_access: tuple[tuple[int, int], ...]
    """Pairs of NVML indexes between which no GPU can read the other's memory."""
    torch_cuda: str
    """CUDA version of the installed torch, e.g. "13.0"; "cpu" for a build without; empty when unknown."""
    health: Mapping[str, Health]
    """What the services of active units answer, by unit."""
    out_of_memory: frozenset[str]
    """Units in whose journal a GPU's memory ran out since the host booted."""
    orphans: tuple[Owner, ...]
    """Engine processes whose service is gone."""
    certificate: Certificate | None

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """All GPUs; none where there is no inventory."""
        return self.inventory.gpus if self.inventory else ()


def take_snapshot() -> Snapshot:
    """Looks at this host. Nothing here starts CUDA."""
    inventory, fault, lost = _inventory()
    gpus = inventory.gpus if inventory else ()
    units = read_units()
    running = [unit for unit in units or () if unit.main_pid]
    environments = {unit.name: found for unit in running if (found := _environment(unit.main_pid)) is not None}
    proofs = {
        unit.name: proof
        for unit in running
        if unit.allowed_minors and (proof := probe_unit(unit.control_group, unit.allowed_minors))
    }
    return Snapshot(
        inventory=inventory,
        fault=fault,
        gpu_lost=lost,
        owners={process.pid: owner_of(process.pid) for gpu in gpus for process in gpu.processes},
        units=units,
        environments=environments,
        proofs=proofs,
        minors=node_minors(),
        has_control_node=Path("/dev/nvidiactl").exists(),
        has_uvm_node=Path("/dev/nvidia-uvm").exists(),
        xids=_xids(),
        no_peer_access=_no_peer_access(len(gpus)),
        torch_cuda=_torch_cuda(),
        health={unit.name: health_of(unit) for unit in units or () if unit.active == "active"},
        out_of_memory=frozenset(unit.name for unit in units or () if uses_gpu(unit.name) and _ran_out(unit)),
        orphans=find_orphans(),
        certificate=read_certificate(),
    )


def _inventory() -> tuple[Inventory | None, str, bool]:
    try:
        return take_inventory(), "", False
    except NvmlUnavailableError as error:
        return None, str(error), False
    except NvmlCallError as error:
        return None, str(error), True


def _environment(pid: int) -> dict[str, str] | None:
    try:
        raw = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    pairs = (part.decode("utf-8", "replace").partition("=") for part in raw.split(b"\0"))
    return {name: value for name, _, value in pairs if name.startswith("CUDA_")}


def _no_peer_access(count: int) -> tuple[tuple[int, int], ...]:
    if count < 2:
        return ()
    with open_nvml() as nvml:
        handles = [nvml.need("nvmlDeviceGetHandleByIndex", index) for index in range(count)]
        found = []
        for one, other in itertools.combinations(range(count), 2):
            status = nvml.ask("nvmlDeviceGetP2PStatus", handles[one], handles[other], _PEER_READ)
            if status not in {None, nvml.constant("NVML_P2P_STATUS_OK")}:
                found.append((one, other))
        return tuple(found)


def _xids() -> tuple[Xid, ...]:
    return parse_xids(_journal("--dmesg", "--grep=NVRM: Xid"))


_OUT_OF_MEMORY = (
    "CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|less than desired GPU memory"
)
"""What torch and vLLM write."""


def _ran_out(unit: Unit) -> bool:
    return unit.loaded and bool(_journal(f"--unit={unit.name}", "--lines=1", f"--grep={_OUT_OF_MEMORY}").strip())


def _journal(*arguments: str) -> str:
    """Messages since the host booted; empty where there is no journal."""
    if shutil.which("journalctl") is None:
        return ""
    command = ["journalctl", "--boot", "--output=cat", "--no-pager", "--quiet", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=15, check=False).stdout  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""


def parse_xids(log: str) -> tuple[Xid, ...]:
    """Errors from lines such as "NVRM: Xid (PCI:0000:07:00): 79, ..."; each GPU and code once."""
    found = re.findall(r"Xid \(PCI:([0-9a-fA-F]{4}):([0-9a-fA-F:]+?)(?:\.\d)?\): (\d+)", log)
    return tuple(dict.fromkeys(Xid(f"0000{domain}:{rest}.0".upper(), int(code)) for domain, rest, code in found))


def _torch_cuda() -> str:
    """From the version's local part ("2.13.0+cu130"), or the CUDA packages beside a version without one."""
    try:
        version = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""
    local = version.partition("+")[2]
    if local.startswith("cu") and local[2:].isdigit():
        return f"{local[2:-1]}.{local[-1]}"
    if local:
        return "cpu" if local.startswith("cpu") else ""
    requirements = " ".join(importlib.metadata.requires("torch") or [])
    match = re.search(r"cuda-toolkit\S*==(\d+\.\d+)|nvidia-cuda-runtime\S*==(\d+\.\d+)", requirements)
    return (match[1] or match[2]) if match else ""
