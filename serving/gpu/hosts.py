"""Hosts to plan for: this one, one described in words, or one saved in a file."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

from serving.errors import MaifsError, Reason
from serving.gpu.inventory import Gpu, Inventory

GIB = 1024**3


@dataclass(frozen=True)
class GpuSpec:
    """What a plan needs to know of a GPU."""

    name: str
    memory_bytes: int
    """Memory that programs can use, below the number in the GPU's name."""
    bandwidth_bytes_per_s: float
    """Of its memory."""
    compute_capability: tuple[int, int]
    index: int | None = None
    minor: int | None = None
    uuid: str | None = None
    mig: bool = False


@dataclass(frozen=True)
class Host:
    """GPUs in the order in which they are given out, the LLM's first."""

    name: str
    gpus: tuple[GpuSpec, ...]


_KINDS: dict[str, tuple[float, float, tuple[int, int]]] = {
    "T4": (14.6, 0.320, (7, 5)),
    "V100-16GB": (15.8, 0.900, (7, 0)),
    "V100-32GB": (31.7, 0.900, (7, 0)),
    "RTX3090": (23.6, 0.936, (8, 6)),
    "RTX4090": (23.6, 1.008, (8, 9)),
    "A10": (22.0, 0.600, (8, 6)),
    "A6000": (47.4, 0.768, (8, 6)),
    "L4": (22.0, 0.300, (8, 9)),
    "L40S": (44.4, 0.864, (8, 9)),
    "A100-40GB": (39.4, 1.555, (8, 0)),
    "A100-80GB": (79.1, 2.039, (8, 0)),
    "H100-80GB": (79.1, 3.352, (9, 0)),
    "H200": (139.7, 4.8, (9, 0)),
    "B200": (178.4, 8.0, (10, 0)),
}
"""GiB that programs can use (what CUDA reports, about 1.5 % below the name), TB/s by the vendor's data sheet (SXM
form where there are two), compute capability."""


def parse_host(text: str) -> Host:
    """A host from words such as "4xA100-40GB", or from a JSON file that `--save-host` wrote.

    Raises:
        MaifsError: INVALID_REQUEST when it is neither.
    """
    path = Path(text)
    if text.endswith(".json") or path.is_file():
        return load_host(path)
    match = re.fullmatch(r"(\d+)\s*[xX*]\s*(.+)", text.strip())
    kind = _find_kind(match[2]) if match else None
    if match is None or kind is None or not 1 <= int(match[1]) <= 16:
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"--host {text!r} is no host that can be planned.",
            "Write COUNTxKIND, e.g. 4xA100-40GB, with a kind of: " + ", ".join(_KINDS) + "; or name a saved profile.",
        )
    gib, terabytes, capability = _KINDS[kind]
    spec = GpuSpec(kind, round(gib * GIB), terabytes * 1e12, capability)
    return Host(f"{int(match[1])} x {kind}", (spec,) * int(match[1]))


def _find_kind(text: str) -> str | None:
    """The kind that a name means: case, vendor, form factor and blanks do not count."""
    plain = re.sub(r"NVIDIA|GEFORCE|TESLA|SXM\d?|PCIE|HBM\d?|[\s_-]", "", text.upper())
    return next((kind for kind in _KINDS if kind.replace("-", "") == plain), None)


def host_of(inventory: Inventory) -> Host:
    """This host as NVML describes it.

    Raises:
        MaifsError: INVALID_REQUEST when a GPU is of a kind whose memory bandwidth nobody tells.
    """
    specs = tuple(_spec(gpu) for gpu in inventory.gpus)
    names = sorted({spec.name for spec in specs})
    return Host(f"this host: {len(specs)} x {', '.join(names)}" if specs else "this host: no GPU", specs)


def _spec(gpu: Gpu) -> GpuSpec:
    memory_gib = round(gpu.total_bytes / GIB)
    kind = _find_kind(gpu.name) or _find_kind(f"{gpu.name}-{memory_gib}GB")
    bandwidth = gpu.bandwidth_bytes_per_s or (_KINDS[kind][1] * 1e12 if kind else None)
    if bandwidth is None:
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"The driver does not tell the memory bandwidth of GPU {gpu.index} ({gpu.name}).",
            "Describe the host with --host instead.",
        )
    capability = gpu.compute_capability or (_KINDS[kind][2] if kind else (0, 0))
    return GpuSpec(gpu.name, gpu.total_bytes, bandwidth, capability, gpu.index, gpu.minor, gpu.uuid, gpu.mig)


def save_host(host: Host, path: Path) -> None:
    """Writes a profile that `parse_host` reads.

    Raises:
        MaifsError: OUTPUT_UNWRITABLE.
    """
    try:
        path.write_text(json.dumps(asdict(host), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise MaifsError(Reason.OUTPUT_UNWRITABLE, f"{path} cannot be written: {error.strerror}.") from error


def load_host(path: Path) -> Host:
    """Reads a saved profile.

    Raises:
        MaifsError: FILE_UNREADABLE when it is missing or no profile.
    """
    try:
        table = json.loads(path.read_text("utf-8"))
        gpus = tuple(
            GpuSpec(**{**gpu, "compute_capability": tuple(gpu["compute_capability"])}) for gpu in table["gpus"]
        )
        return Host(str(table["name"]), gpus)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE,
            f"{path} is no host profile: {error}.",
            "Write one with `coordinator-cli gpu plan --save-host FILE` on that host.",
        ) from error
