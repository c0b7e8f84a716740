"""A service's GPUs from its configuration to its proof."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass

from serving.errors import MaifsError, Reason
from serving.gpu.inventory import Gpu, take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError
from serving.gpu.owners import same_service
from serving.gpu.pin import claim, probe, require, verify_cuda
from serving.gpu.report import PinReport

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuConfig:
    """Which GPUs a service keeps to."""

    devices: tuple[str, ...] = ()
    """Full UUIDs, or NVML indexes; empty: no pin, CUDA takes what the environment shows it."""
    require_enforced: bool = False
    """Whether to refuse to serve unless the kernel keeps the service from all other GPUs (systemd's device policy)."""
    allow_busy: bool = False
    """Whether the GPUs may be in use by other programs."""

    def faults(self) -> list[str]:
        """See serving.config."""
        if self.require_enforced and not self.devices:
            return ["require_enforced is set, but devices names no GPU"]
        return []


@dataclass(frozen=True)
class GpuSession:
    """GPUs that this process has claimed."""

    gpus: tuple[Gpu, ...]
    require_enforced: bool

    def prove(self) -> PinReport:
        """Checks, after the service has started, that it is on its GPUs and on no others.

        Raises:
            MaifsError: INVALID_CONFIG when CUDA opened other GPUs, a process of the service holds a GPU that is not its
                own, or the device policy does not hold.
        """
        torch = sys.modules.get("torch")
        if torch is not None and torch.cuda.is_initialized():
            verify_cuda(self.gpus, torch)
        self._check_occupation()
        proof = probe(self._minors)
        require(proof, enforced=self.require_enforced)
        report = PinReport.of(proof, self._uuids)
        _log.info("GPU pin", extra={"state": report.state.value, "gpus": list(report.gpu_uuids)})
        return report

    def look(self) -> PinReport:
        """The pin at this moment: a device policy can be widened while the service runs."""
        return PinReport.of(probe(self._minors), self._uuids)

    @property
    def _minors(self) -> list[int]:
        return [gpu.minor for gpu in self.gpus if gpu.minor is not None]

    @property
    def _uuids(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self.gpus)

    def _check_occupation(self) -> None:
        """By NVML, for all processes of the service: the engine's start CUDA, not this one."""
        try:
            gpus = take_inventory().gpus
        except (NvmlUnavailableError, NvmlCallError) as error:
            _log.warning("the driver does not tell who holds which GPU", extra={"reason": str(error)})
            return
        foreign = [
            f"{gpu.uuid} (process {process.pid})"
            for gpu in gpus
            for process in gpu.processes
            if gpu.uuid not in self._uuids and same_service(process.pid)
        ]
        if foreign:
            raise MaifsError(
                Reason.INVALID_CONFIG,
                f"A process of this service holds a GPU that is not its own: {', '.join(foreign)}.",
                "Something overrode CUDA_VISIBLE_DEVICES after the service had set it.",
            )


def open_session(config: GpuConfig) -> GpuSession | None:
    """Claims the configured GPUs before anything starts CUDA; None when none is configured.

    Raises:
        MaifsError: BACKEND_UNAVAILABLE when no driver answers or a GPU is in use by others; INVALID_CONFIG when a GPU
            is not there.
    """
    if not config.devices:
        return None
    try:
        inventory = take_inventory()
    except (NvmlUnavailableError, NvmlCallError) as error:
        raise MaifsError(
            Reason.BACKEND_UNAVAILABLE,
            f"gpu.devices names {', '.join(config.devices)}, but the NVIDIA driver does not answer: {error}.",
            "`coordinator-cli gpu check` shows what is missing; without gpu.devices the service runs on the CPU.",
            retry_after_s=30.0,
        ) from error
    return GpuSession(claim(config.devices, inventory, allow_busy=config.allow_busy), config.require_enforced)
