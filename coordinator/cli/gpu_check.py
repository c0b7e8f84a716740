"""`coordinator-cli gpu check`: what runs on which GPU, what is wrong and the cure."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.cli.terminal import PIPE_WIDTH
from coordinator.render.phrases import printable
from serving.errors import ExitCode
from serving.gpu.diagnosis import diagnose, roles
from serving.gpu.findings import Finding, Severity
from serving.gpu.hosts import GIB
from serving.gpu.inventory import Gpu
from serving.gpu.snapshot import Snapshot, take_snapshot
from serving.gpu.units import Unit, uses_gpu

_STYLES = {Severity.FAULT: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def run(*, as_json: bool) -> None:
    """Prints the state of this host and ends the command."""
    snapshot = take_snapshot()
    findings = diagnose(snapshot)
    if as_json:
        typer.echo(json.dumps(document(snapshot, findings), indent=2))
    else:
        show(snapshot, findings, Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH))
    raise typer.Exit(exit_code(snapshot, findings))


def exit_code(snapshot: Snapshot, findings: tuple[Finding, ...]) -> ExitCode:
    """0 nothing is wrong, 1 something is, 3 there is no driver and nothing else is wrong."""
    if any(finding.severity is Severity.FAULT for finding in findings):
        return ExitCode.ITEMS_FAILED
    return ExitCode.OK if snapshot.inventory else ExitCode.UNREACHABLE


def pin_state(unit: Unit, snapshot: Snapshot) -> str:
    """How a unit is kept on its GPUs, as far as it can be known from here."""
    proof = snapshot.proofs.get(unit.name)
    if proof:
        return str(proof)
    if not unit.loaded:
        return "not installed"
    if unit.allows_every_gpu:
        return "none: every GPU is open to it"
    return "configured, not proven (" + ("needs root" if unit.main_pid else "not running") + ")"


def document(snapshot: Snapshot, findings: tuple[Finding, ...]) -> dict[str, Any]:
    """JSON form; docs/gpu.md lists the fields."""
    inventory = snapshot.inventory
    return {
        "driver": inventory
        and {
            "version": inventory.driver_version,
            "cuda": inventory.cuda_version and ".".join(map(str, inventory.cuda_version)),
            "torch_cuda": snapshot.torch_cuda,
        },
        "fault": snapshot.fault,
        "gpus": [_gpu(gpu, snapshot) for gpu in (inventory.gpus if inventory else ())],
        "roles": {unit: list(indexes) for unit, indexes in roles(snapshot).items()},
        "units": [
            {
                "name": unit.name,
                "load": unit.load,
                "active": unit.active,
                "sub": unit.sub,
                "status": unit.status,
                "main_pid": unit.main_pid,
                "restarts_count": unit.restarts,
                "health": snapshot.health.get(unit.name),
                "pin": pin_state(unit, snapshot) if uses_gpu(unit.name) else None,
                "allowed_minors": sorted(unit.allowed_minors),
                "cuda": dict(snapshot.environments.get(unit.name, {})),
            }
            for unit in snapshot.units or ()
        ],
        "findings": [
            {
                "severity": finding.severity.value,
                "code": finding.code,
                "message": finding.message,
                "cure": finding.cure,
            }
            for finding in findings
        ],
    }


def _gpu(gpu: Gpu, snapshot: Snapshot) -> dict[str, Any]:
    owners = ((process, snapshot.owners[process.pid]) for process in gpu.processes)
    return {
        "index": gpu.index,
        "minor": gpu.minor,
        "uuid": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id,
        "name": gpu.name,
        "total_bytes": gpu.total_bytes,
        "used_bytes": gpu.used_bytes,
        "free_bytes": gpu.free_bytes,
        "numa_node": gpu.numa_node,
        "persistence": gpu.persistence,
        "compute_mode": gpu.compute_mode,
        "mig": gpu.mig,
        "uncorrected_ecc_errors_count": gpu.uncorrected_ecc_errors,
        "throttle_reasons": gpu.throttle_reasons,
        "processes": [
            {"pid": process.pid, "used_bytes": process.used_bytes, "unit": owner.unit, "command": owner.command}
            for process, owner in owners
        ],
    }


def show(snapshot: Snapshot, findings: tuple[Finding, ...], console: Console) -> None:
    """Prints it for people."""
    if snapshot.inventory:
        inventory = snapshot.inventory
        cuda = ".".join(map(str, inventory.cuda_version)) if inventory.cuda_version else "unknown"
        console.print(f"Driver {inventory.driver_version}, CUDA up to {cuda}")
        _show_gpus(inventory.gpus, snapshot, console)
    _show_units(snapshot, console)
    for finding in findings:
        style = _STYLES[finding.severity]
        console.print(Text(f"{finding.severity} {finding.code}: ", style=style) + Text(printable(finding.message)))
        if finding.cure:
            console.print(Text(f"  {printable(finding.cure)}"))
    if snapshot.inventory and not any(finding.severity is Severity.FAULT for finding in findings):
        console.print(Text("No fault found.", style="green"))


def _show_gpus(gpus: tuple[Gpu, ...], snapshot: Snapshot, console: Console) -> None:
    table = Table(
        "GPU", "Node", "NUMA", "Name and UUID", "PCI", "Used GiB", "Processes", box=None, padding=(0, 2, 0, 0)
    )
    for gpu in gpus:
        owners = [snapshot.owners[process.pid] for process in gpu.processes]
        held = ", ".join(f"{owner.unit or owner.command or '?'} ({owner.pid})" for owner in owners) or "-"
        node = "?" if gpu.minor is None else f"nvidia{gpu.minor}"
        memory = f"{gpu.used_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f}"
        numa = "-" if gpu.numa_node is None else str(gpu.numa_node)
        cells = (str(gpu.index), node, numa, f"{gpu.name}\n{gpu.uuid}", gpu.pci_bus_id[4:], memory, held)
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)


def _show_units(snapshot: Snapshot, console: Console) -> None:
    units = [unit for unit in snapshot.units or () if unit.loaded]
    if not units:
        return
    measured = roles(snapshot)
    table = Table("Unit", "State", "Health", "On GPU", "Pin", "Status", box=None, padding=(0, 2, 0, 0))
    for unit in units:
        pin = pin_state(unit, snapshot) if uses_gpu(unit.name) else "-"
        on = ", ".join(map(str, measured.get(unit.name, ()))) or "-"
        health = snapshot.health.get(unit.name, "-")
        cells = (unit.name, f"{unit.active} ({unit.sub})", health, on, pin, printable(unit.status))
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
