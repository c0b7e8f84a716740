"""What is wrong with driver, device nodes and GPUs: rules over a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from serving.gpu.findings import Finding, Severity
from serving.gpu.inventory import Inventory
from serving.gpu.snapshot import Snapshot

_HARMFUL_THROTTLING = {0x8: "hardware slowdown", 0x40: "too hot", 0x80: "power brake", 0x20: "too hot (software)"}
"""NVML's clock event reasons that mean trouble; idle, application clocks and the power cap are everyday life."""
_FATAL_XIDS = {
    48: "double-bit ECC error",
    64: "row remapping failed",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    94: "contained ECC error",
    95: "uncontained ECC error",
    119: "GSP does not answer",
}


def hardware_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Findings about driver, device nodes and GPUs."""
    yield from _driver(snapshot)
    if snapshot.inventory:
        yield from _nodes(snapshot, snapshot.inventory)
        yield from _hardware(snapshot, snapshot.inventory)


def _driver(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.gpu_lost:
        yield Finding(
            Severity.FAULT,
            "GPU_LOST",
            f"A GPU does not answer: {snapshot.fault}.",
            "Look for Xid lines in `journalctl -k`; reset or reboot the host.",
        )
    elif snapshot.inventory is None:
        yield Finding(
            Severity.NOTE,
            "NO_DRIVER",
            f"No NVIDIA driver answers here ({snapshot.fault}): the services run on the CPU.",
            "On a GPU host: install the driver, or load it (modprobe nvidia); `nvidia-smi` must work first.",
        )
    elif snapshot.torch_cuda == "cpu":
        yield Finding(
            Severity.WARNING,
            "TORCH_WITHOUT_CUDA",
            "torch is a CPU build: no service uses a GPU.",
            "Install maifs[gpu].",
        )
    elif snapshot.torch_cuda and snapshot.inventory.cuda_version:
        needed = tuple(int(part) for part in snapshot.torch_cuda.split("."))
        have = snapshot.inventory.cuda_version
        # Within a major version a driver serves newer minor versions too.
        if needed[0] > have[0]:
            yield Finding(
                Severity.FAULT,
                "DRIVER_TOO_OLD",
                f"Driver {snapshot.inventory.driver_version} serves CUDA {have[0]}.{have[1]}; "
                f"torch needs {snapshot.torch_cuda}.",
                "Update the driver, or install a torch build for the driver's CUDA.",
            )


def _nodes(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    cure = "nvidia-modprobe -c 0 -u as root, or enable nvidia-persistenced; load nvidia-uvm by modules-load.d."
    wanted = {gpu.minor for gpu in inventory.gpus if gpu.minor is not None}
    missing = [f"/dev/nvidia{minor}" for minor in sorted(wanted - set(snapshot.minors))]
    missing += [] if snapshot.has_control_node else ["/dev/nvidiactl"]
    missing += [] if snapshot.has_uvm_node else ["/dev/nvidia-uvm"]
    if missing:
        yield Finding(Severity.FAULT, "NODE_MISSING", f"Device nodes are missing: {', '.join(missing)}.", cure)


def _hardware(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    for gpu in inventory.gpus:
        name = f"GPU {gpu.index} ({gpu.uuid})"
        if gpu.uncorrected_ecc_errors:
            yield Finding(
                Severity.FAULT,
                "ECC_ERRORS",
                f"{name} has {gpu.uncorrected_ecc_errors} uncorrected ECC error(s).",
                "Drain it and reset it (nvidia-smi -r); replace it when they come back.",
            )
        reasons = [text for bit, text in _HARMFUL_THROTTLING.items() if gpu.throttle_reasons & bit]
        if reasons:
            yield Finding(
                Severity.WARNING,
                "THROTTLED",
                f"{name} is slowed down: {', '.join(reasons)}.",
                "Check cooling and power.",
            )
        if gpu.mig:
            yield Finding(
                Severity.FAULT, "MIG", f"{name} is split by MIG.", f"nvidia-smi -i {gpu.index} -mig 0, when it is idle."
            )
        if gpu.compute_mode == 2:
            yield Finding(
                Severity.FAULT,
                "NO_COMPUTE",
                f"{name} forbids computing.",
                f"nvidia-smi -i {gpu.index} -c DEFAULT",
            )
        if gpu.persistence is False:
            yield Finding(
                Severity.NOTE,
                "NOT_PERSISTENT",
                f"{name} has persistence off: its driver state is built anew for each first user.",
                "systemctl enable --now nvidia-persistenced",
            )
    yield from _kernel_errors(snapshot, inventory)


def _kernel_errors(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    indexes = {gpu.pci_bus_id.upper(): gpu.index for gpu in inventory.gpus}
    for xid in snapshot.xids:
        severity = Severity.FAULT if xid.code in _FATAL_XIDS else Severity.WARNING
        text = _FATAL_XIDS.get(xid.code, "see NVIDIA's list of Xid errors")
        where = f"GPU {indexes[xid.pci_bus_id]}" if xid.pci_bus_id in indexes else f"A GPU at {xid.pci_bus_id}"
        yield Finding(
            severity,
            "XID",
            f"{where} reported Xid {xid.code} since the host booted: {text}.",
            "Drain it and reset it; Xid 13, 31 and 43 come from the program, not from the GPU.",
        )
