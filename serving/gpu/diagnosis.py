"""What is wrong with a GPU host, and the cure: rules over a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from serving.gpu.dropins import LLM_UNIT
from serving.gpu.findings import Finding, Severity
from serving.gpu.hardware import hardware_findings
from serving.gpu.hosts import GIB
from serving.gpu.inventory import Gpu, Inventory
from serving.gpu.owners import Owner
from serving.gpu.pin import PinState
from serving.gpu.service_findings import service_findings
from serving.gpu.snapshot import Snapshot
from serving.gpu.units import Unit, is_ours, uses_gpu

_UNSEEN_BYTES = GIB
"""The driver's own use stays far below."""
WRITE_AGAIN = "coordinator-cli gpu apply --write; systemctl daemon-reload; systemctl restart {unit}"


def roles(snapshot: Snapshot) -> dict[str, tuple[int, ...]]:
    """Which unit holds which GPUs (indexes), measured from the processes on them."""
    found: dict[str, list[int]] = {}
    for gpu in snapshot.inventory.gpus if snapshot.inventory else ():
        for process in gpu.processes:
            owner = snapshot.owners[process.pid]
            indexes = found.setdefault(owner.unit or str(owner), [])
            if gpu.index not in indexes:
                indexes.append(gpu.index)
    return {unit: tuple(indexes) for unit, indexes in sorted(found.items())}


def diagnose(snapshot: Snapshot) -> tuple[Finding, ...]:
    """All findings, the worst first."""
    found = [*hardware_findings(snapshot), *service_findings(snapshot)]
    if snapshot.inventory:
        found += [*_occupation(snapshot, snapshot.inventory), *_pins(snapshot, snapshot.inventory)]
        found += [*_peers(snapshot), *_places(snapshot, snapshot.inventory), *_unseen(snapshot.inventory)]
    order = list(Severity)
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _occupation(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    units = {unit.name: unit for unit in snapshot.units or ()}
    for gpu in inventory.gpus:
        owners = [snapshot.owners[process.pid] for process in gpu.processes]
        ours = sorted({owner.unit for owner in owners if is_ours(owner.unit)})
        if len(ours) > 1:
            yield Finding(
                Severity.FAULT,
                "SHARED_GPU",
                f"GPU {gpu.index} is used by {' and '.join(ours)}.",
                WRITE_AGAIN.format(unit="maifs.target"),
            )
        for name in ours:
            yield from _wrong_gpu(gpu, units.get(name), inventory)
        yield from (_stranger(gpu, owner, snapshot) for owner in owners if not is_ours(owner.unit))


def _stranger(gpu: Gpu, owner: Owner, snapshot: Snapshot) -> Finding:
    if owner in snapshot.orphans:
        text = f"GPU {gpu.index} is held by {owner}: an engine process without its service."
        return Finding(Severity.FAULT, "ORPHAN", text, f"kill {owner.pid}")
    stop = f"systemctl stop {owner.unit}" if owner.unit.endswith(".service") else f"kill {owner.pid}"
    return Finding(
        Severity.FAULT,
        "FOREIGN_PROCESS",
        f"GPU {gpu.index} is held by {owner}: the service that needs this GPU will run out of memory.",
        f"{stop}; or plan without this GPU.",
    )


def _wrong_gpu(gpu: Gpu, unit: Unit | None, inventory: Inventory) -> Iterator[Finding]:
    if unit is None or not unit.loaded:
        return
    wanted = planned(unit, inventory)
    if wanted and gpu.uuid not in {other.uuid for other in wanted}:
        indexes = ", ".join(str(other.index) for other in wanted)
        yield Finding(
            Severity.FAULT,
            "WRONG_GPU",
            f"{unit.name} uses GPU {gpu.index}, which is not one of its own ({indexes}).",
            WRITE_AGAIN.format(unit=unit.name),
        )


def planned(unit: Unit, inventory: Inventory) -> tuple[Gpu, ...]:
    """The GPUs that a unit's configuration gives it, by UUID; indexes count as NVML's."""
    return tuple(gpu for gpu in inventory.gpus if {gpu.uuid, str(gpu.index)} & set(unit.visible_devices))


def _pins(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    for unit in snapshot.units or ():
        if not uses_gpu(unit.name) or not unit.loaded or not inventory.gpus:
            continue
        yield from _policy(unit, inventory)
        yield from _environment(unit, snapshot)
        proof = snapshot.proofs.get(unit.name)
        if proof and proof.state is not PinState.ENFORCED:
            yield Finding(
                Severity.FAULT,
                f"PIN_{proof.state.name}",
                f"The pin of {unit.name} does not hold: {proof}.",
                "Is BPF usable (cgroup v2, CONFIG_CGROUP_BPF)? Then: " + WRITE_AGAIN.format(unit=unit.name),
            )


def _policy(unit: Unit, inventory: Inventory) -> Iterator[Finding]:
    cure = WRITE_AGAIN.format(unit=unit.name)
    if unit.allows_every_gpu:
        text = f"{unit.name} may open every GPU (DevicePolicy={unit.device_policy}, {' '.join(unit.device_allow)})."
        yield Finding(Severity.FAULT, "NOT_PINNED", text, cure)
        return
    wanted = {gpu.minor for gpu in planned(unit, inventory)}
    if unit.visible_devices and wanted != set(unit.allowed_minors):
        numbers = (", ".join(map(str, sorted(values, key=str))) or "none" for values in (unit.allowed_minors, wanted))
        yield Finding(
            Severity.FAULT,
            "PIN_DRIFT",
            "{} may open the minors {}, but its GPUs have {} now: they changed, or the policy was widened.".format(
                unit.name, *numbers
            ),
            cure,
        )


def _environment(unit: Unit, snapshot: Snapshot) -> Iterator[Finding]:
    variables = snapshot.environments.get(unit.name, unit.environment if unit.main_pid == 0 else {})
    if not variables:
        return
    visible = variables.get("CUDA_VISIBLE_DEVICES")
    if visible is None or any(not part.startswith("GPU-") for part in visible.split(",") if part):
        yield Finding(
            Severity.FAULT,
            "NOT_BY_UUID",
            f"{unit.name} has CUDA_VISIBLE_DEVICES={visible if visible is not None else '(not set)'}: an index names "
            "another GPU inside a device policy than outside.",
            WRITE_AGAIN.format(unit=unit.name),
        )
    if variables.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        yield Finding(
            Severity.WARNING,
            "DEVICE_ORDER",
            f"{unit.name} runs without CUDA_DEVICE_ORDER=PCI_BUS_ID.",
            WRITE_AGAIN.format(unit=unit.name),
        )


def _peers(snapshot: Snapshot) -> Iterator[Finding]:
    own = set(roles(snapshot).get(LLM_UNIT, ()))
    pairs = [f"{one}-{other}" for one, other in snapshot.no_peer_access if {one, other} <= own]
    if pairs:
        yield Finding(
            Severity.WARNING,
            "NO_PEER_ACCESS",
            f"GPUs of the language model cannot read each other's memory: {', '.join(pairs)}.",
            "Choose GPUs of one NVLink island, or pipeline parallel, which sends less. IOMMU and ACS can forbid it.",
        )


def _places(snapshot: Snapshot, inventory: Inventory) -> Iterator[Finding]:
    own = set(roles(snapshot).get(LLM_UNIT, ()))
    nodes = {gpu.index: gpu.numa_node for gpu in inventory.gpus if gpu.index in own and gpu.numa_node is not None}
    if len(set(nodes.values())) > 1:
        text = ", ".join(f"{index} on node {node}" for index, node in sorted(nodes.items()))
        yield Finding(
            Severity.NOTE,
            "NUMA_SPLIT",
            f"GPUs of the language model lie on several NUMA nodes: {text}.",
            "Where the host has a choice, give it the GPUs of one node: their traffic stays off the link between them.",
        )


def _unseen(inventory: Inventory) -> Iterator[Finding]:
    for gpu in inventory.gpus:
        if not gpu.processes and gpu.used_bytes > _UNSEEN_BYTES:
            yield Finding(
                Severity.FAULT,
                "UNSEEN_PROCESS",
                f"GPU {gpu.index} has {gpu.used_bytes / GIB:.1f} GiB in use by no process that can be seen from here.",
                "Look outside of this container; `fuser -v /dev/nvidia*` as root on the host names who has it open.",
            )
