"""What is wrong with the services: units, health, memory, orphans, certificate; rules over a snapshot."""

from __future__ import annotations

from collections.abc import Iterator

from serving.gpu.dropins import LLM_UNIT
from serving.gpu.findings import Finding, Severity
from serving.gpu.service_health import Health
from serving.gpu.snapshot import Snapshot
from serving.gpu.units import Unit

_SOON_DAYS = 21


def service_findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Findings about the services, wherever they run."""
    yield from _units(snapshot)
    yield from _orphans(snapshot)
    yield from _certificate(snapshot)


def _units(snapshot: Snapshot) -> Iterator[Finding]:
    if snapshot.units is None:
        yield Finding(Severity.NOTE, "NO_SYSTEMD", "systemd does not run here: units were not checked.", "")
        return
    missing = [unit.name for unit in snapshot.units if not unit.loaded]
    if missing:
        text = ", ".join(missing)
        yield Finding(Severity.NOTE, "UNIT_NOT_INSTALLED", f"Not installed: {text}.", "coordinator-cli install")
    for unit in snapshot.units:
        if unit.loaded:
            yield from _state(unit)
            yield from _reload(unit, snapshot)
            yield from _health(unit, snapshot)
            yield from _memory(unit, snapshot)


def _state(unit: Unit) -> Iterator[Finding]:
    if unit.active == "failed":
        yield Finding(
            Severity.FAULT,
            "UNIT_FAILED",
            f"{unit.name} has failed ({unit.result}){': ' + unit.status if unit.status else ''}.",
            f"journalctl -u {unit.name} -n 50; mend it; systemctl restart {unit.name}",
        )
    elif unit.restarts:
        yield Finding(
            Severity.WARNING,
            "UNIT_RESTARTED",
            f"{unit.name} was restarted {unit.restarts} time(s) since it was started.",
            f"journalctl -u {unit.name} tells why.",
        )


def _reload(unit: Unit, snapshot: Snapshot) -> Iterator[Finding]:
    if unit.needs_reload:
        yield Finding(
            Severity.WARNING,
            "NOT_RELOADED",
            f"Files of {unit.name} have changed since systemd read them.",
            f"systemctl daemon-reload; systemctl restart {unit.name}",
        )
    running = snapshot.environments.get(unit.name, {}).get("CUDA_VISIBLE_DEVICES")
    planned = unit.environment.get("CUDA_VISIBLE_DEVICES")
    if running is not None and planned and running != planned:
        yield Finding(
            Severity.FAULT,
            "NOT_RESTARTED",
            f"{unit.name} runs with {running}, but its installed plan says {planned}.",
            f"systemctl restart {unit.name}",
        )


def _health(unit: Unit, snapshot: Snapshot) -> Iterator[Finding]:
    health = snapshot.health.get(unit.name)
    if unit.active != "active" or health in {None, Health.SERVING}:
        return
    if health is Health.FORBIDDEN:
        text = f"{unit.name} does not let this user in: its health was not checked."
        yield Finding(Severity.NOTE, "HEALTH_UNKNOWN", text, "Run this as root, or join the group maifs.")
        return
    if health is Health.UNTRUSTED:
        text = f"{unit.name} shows a certificate that is not trusted here: its health was not checked."
        yield Finding(Severity.NOTE, "HEALTH_UNKNOWN", text, "Set MAIFS_CA_FILE (and MAIFS_SERVER_NAME), docs/cli.md.")
        return
    yield Finding(
        Severity.FAULT,
        "NOT_HEALTHY",
        f"{unit.name} is active, but its health service says: {health}.",
        f"journalctl -u {unit.name} -n 50; systemctl restart {unit.name}",
    )


def _memory(unit: Unit, snapshot: Snapshot) -> Iterator[Finding]:
    if unit.name not in snapshot.out_of_memory:
        return
    cure = "Free the GPU of other processes (FOREIGN_PROCESS, ORPHAN above), or lower memory_budget_mib."
    if unit.name == LLM_UNIT:
        cure = (
            "coordinator-cli gpu plan shows what fits: a shorter --max-model-len, a quantised model or more GPUs; "
            "lower gpu_memory_utilization only where others need the rest."
        )
    yield Finding(Severity.FAULT, "OUT_OF_MEMORY", f"{unit.name} ran out of GPU memory since the host booted.", cure)


def _orphans(snapshot: Snapshot) -> Iterator[Finding]:
    on_gpus = {process.pid for gpu in snapshot.gpus for process in gpu.processes}
    for owner in snapshot.orphans:
        if owner.pid not in on_gpus:
            text = f"{owner} is an engine process without its service; it holds no GPU now."
            yield Finding(Severity.WARNING, "ORPHAN", text, f"kill {owner.pid}")


def _certificate(snapshot: Snapshot) -> Iterator[Finding]:
    certificate = snapshot.certificate
    if certificate is None:
        return
    cure = f"Renew {certificate.path} and restart the coordinator."
    if certificate.days_left is None:
        yield Finding(Severity.FAULT, "TLS_UNREADABLE", f"{certificate.path} is no certificate.", cure)
    elif certificate.days_left < 0:
        text = f"{certificate.path} expired {-certificate.days_left:.0f} days ago."
        yield Finding(Severity.FAULT, "TLS_EXPIRED", text, cure)
    elif certificate.days_left < _SOON_DAYS:
        text = f"{certificate.path} expires in {certificate.days_left:.0f} days."
        yield Finding(Severity.WARNING, "TLS_EXPIRES", text, cure)
