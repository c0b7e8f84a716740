"""The GPUs of this host as NVML and the kernel describe them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving.gpu.nvml import Nvml, open_nvml


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds memory of a GPU."""

    pid: int
    used_bytes: int | None
    """None where the driver does not say (containers)."""


@dataclass(frozen=True)
class Gpu:
    """One GPU. None means that the driver does not say."""

    index: int
    """NVML's number; in the order of PCI addresses."""
    minor: int | None
    """Number of the device node /dev/nvidiaN; not always the index, and it may change when the host boots."""
    uuid: str
    pci_bus_id: str
    name: str
    total_bytes: int
    """Memory that programs can use: without what the driver keeps for itself."""
    used_bytes: int
    free_bytes: int
    bandwidth_bytes_per_s: float | None
    compute_capability: tuple[int, int] | None
    numa_node: int | None
    persistence: bool | None
    compute_mode: int | None
    """0 default, 2 prohibited, 3 one process at a time."""
    mig: bool
    uncorrected_ecc_errors: int | None
    """Since the driver was loaded."""
    throttle_reasons: int
    """NVML's bit mask of clock event reasons."""
    processes: tuple[GpuProcess, ...]


@dataclass(frozen=True)
class Inventory:
    """All GPUs of a host."""

    driver_version: str
    cuda_version: tuple[int, int] | None
    """The newest CUDA that the driver serves."""
    gpus: tuple[Gpu, ...]

    def by_uuid(self, uuid: str) -> Gpu | None:
        """The GPU with this full UUID."""
        return next((gpu for gpu in self.gpus if gpu.uuid == uuid), None)


def take_inventory() -> Inventory:
    """Asks NVML for every GPU.

    Raises:
        NvmlUnavailableError: there is no driver.
        NvmlCallError: a GPU is lost.
    """
    with open_nvml() as nvml:
        cuda = nvml.ask("nvmlSystemGetCudaDriverVersion_v2")
        gpus = tuple(_gpu(nvml, index) for index in range(nvml.need("nvmlDeviceGetCount")))
        return Inventory(
            driver_version=str(nvml.need("nvmlSystemGetDriverVersion")),
            cuda_version=None if cuda is None else (cuda // 1000, cuda % 1000 // 10),
            gpus=gpus,
        )


def _gpu(nvml: Nvml, index: int) -> Gpu:
    handle = nvml.need("nvmlDeviceGetHandleByIndex", index)
    bus_id = str(nvml.need("nvmlDeviceGetPciInfo", handle).busId)
    total, used, free = _memory(nvml, handle)
    mig = nvml.ask("nvmlDeviceGetMigMode", handle)
    persistence = nvml.ask("nvmlDeviceGetPersistenceMode", handle)
    return Gpu(
        index=index,
        minor=nvml.ask("nvmlDeviceGetMinorNumber", handle),
        uuid=str(nvml.need("nvmlDeviceGetUUID", handle)),
        pci_bus_id=bus_id,
        name=str(nvml.need("nvmlDeviceGetName", handle)),
        total_bytes=total,
        used_bytes=used,
        free_bytes=free,
        bandwidth_bytes_per_s=_bandwidth(nvml, handle),
        compute_capability=_pair(nvml.ask("nvmlDeviceGetCudaComputeCapability", handle)),
        numa_node=_numa_node(bus_id),
        persistence=None if persistence is None else bool(persistence),
        compute_mode=nvml.ask("nvmlDeviceGetComputeMode", handle),
        mig=bool(mig and mig[0]),
        uncorrected_ecc_errors=nvml.ask(
            "nvmlDeviceGetTotalEccErrors",
            handle,
            nvml.constant("NVML_MEMORY_ERROR_TYPE_UNCORRECTED"),
            nvml.constant("NVML_VOLATILE_ECC"),
        ),
        throttle_reasons=int(nvml.ask("nvmlDeviceGetCurrentClocksEventReasons", handle) or 0),
        processes=_processes(nvml, handle),
    )


def _memory(nvml: Nvml, handle: Any) -> tuple[int, int, int]:
    """Total, used and free bytes; the driver's own share belongs to none of them where the driver tells it."""
    memory = nvml.ask("nvmlDeviceGetMemoryInfo", handle, nvml.constant("nvmlMemory_v2"))
    if memory is not None:
        return int(memory.total - memory.reserved), int(memory.used), int(memory.free)
    memory = nvml.need("nvmlDeviceGetMemoryInfo", handle)
    return int(memory.total), int(memory.used), int(memory.free)


def _bandwidth(nvml: Nvml, handle: Any) -> float | None:
    """Bytes per second of the memory: two transfers per clock over the whole bus."""
    bits = nvml.ask("nvmlDeviceGetMemoryBusWidth", handle)
    megahertz = nvml.ask("nvmlDeviceGetMaxClockInfo", handle, nvml.constant("NVML_CLOCK_MEM"))
    return None if not bits or not megahertz else 2.0 * megahertz * 1e6 * bits / 8


def _pair(value: Any) -> tuple[int, int] | None:
    return None if value is None else (int(value[0]), int(value[1]))


def _numa_node(bus_id: str) -> int | None:
    domain, rest = bus_id.lower().split(":", 1)
    try:
        node = int(Path(f"/sys/bus/pci/devices/{domain[-4:]}:{rest}/numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _processes(nvml: Nvml, handle: Any) -> tuple[GpuProcess, ...]:
    found: dict[int, int | None] = {}
    for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"):
        for entry in nvml.ask(function, handle) or []:
            used = entry.usedGpuMemory
            found[int(entry.pid)] = None if used is None else int(used)
    return tuple(GpuProcess(pid, used) for pid, used in sorted(found.items()))
