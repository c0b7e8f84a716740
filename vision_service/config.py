"""Settings of the vision service."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path

from serving.gpu.session import GpuConfig
from serving.server import ServerConfig
from vision_service.limits import DecodeLimits


@dataclass(frozen=True)
class VisionConfig:
    """The [vision] table."""

    server: ServerConfig = field(default_factory=lambda: ServerConfig(address="unix:/run/maifs/vision.sock"))
    """How it listens."""
    gpu: GpuConfig = field(default_factory=GpuConfig)
    """The GPU that it keeps to."""
    limits: DecodeLimits = field(default_factory=DecodeLimits)
    """What is refused before it is decoded."""
    device: str = "auto"
    """"cpu", "cuda", "cuda:N", or "auto": the first CUDA device when there is one, else the CPU."""
    workers: int = field(default_factory=lambda: max(1, len(os.sched_getaffinity(0))))
    """Threads that decode and run tools; pictures in decoded form at a time."""
    max_queued_items: int = 256
    """Items that may wait, over all calls, before new ones are refused."""
    max_open_items_per_stream: int = 64
    """Items of one stream that may be open at a time."""
    max_held_bytes: int = 1024 * 1024 * 1024
    """Encoded bytes held over all calls before new items are refused."""
    hung_after_s: float = 900.0
    """A thread that works that long on one step of one picture hangs: the service manager's watchdog then ends the
    service."""
    memory_budget_mib: int = 4096
    """Memory that pictures in work may take together, by an estimate of each; one that is larger alone is refused. On a
    GPU torch is bound to it too."""
    plugins_dir: Path | None = None
    """Folder of plug-ins (docs/learned.md): users' own networks with sidecars; none when not set."""
    trust_anchors_file: Path | None = None
    """PEM file of issuers whose Content Credentials are trusted; without it no signer is."""
    rivagan_payloads: tuple[str, ...] = ()
    """The owner's RivaGAN marks to look for, each "name=hex" with eight hexadecimal digits."""
    calibration_file: Path | None = None
    """Calibration made by `python -m vision_service.calibrate`; the packaged one when not set."""

    def faults(self) -> list[str]:
        """See serving.config."""
        found = []
        for name in ("workers", "max_queued_items", "max_open_items_per_stream", "max_held_bytes"):
            if getattr(self, name) < 1:
                found.append(f"{name} = {getattr(self, name)}: must be at least 1")
        if self.hung_after_s <= 0:
            found.append(f"hung_after_s = {self.hung_after_s}: must be above 0")
        if self.memory_budget_mib < 256:
            found.append(f"memory_budget_mib = {self.memory_budget_mib}: must be at least 256")
        if self.device not in {"auto", "cpu", "cuda"} and not self.device.removeprefix("cuda:").isdigit():
            found.append(f"device = {self.device!r}: must be auto, cpu, cuda or cuda:N")
        if self.plugins_dir and not self.plugins_dir.is_dir():
            found.append(f"plugins_dir = {self.plugins_dir}: no such folder")
        for entry in self.rivagan_payloads:
            if not re.fullmatch(r".*\S.*=\s*[0-9a-fA-F]{8}\s*", entry):
                found.append(f"rivagan_payloads: {entry!r} must be name=hex with eight hexadecimal digits")
        if self.trust_anchors_file and not self.trust_anchors_file.is_file():
            found.append(f"trust_anchors_file = {self.trust_anchors_file}: no such file")
        if self.calibration_file and not self.calibration_file.is_file():
            found.append(f"calibration_file = {self.calibration_file}: no such file")
        return found
