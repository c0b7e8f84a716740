"""Can this model be laid over these devices? Answered from config.json, before the engine is started."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from llm_service.config import LlmConfig
from llm_service.devices import Demand, Devices, busy_faults, memory_faults
from llm_service.model_files import find_model_config
from serving.errors import MaifsError, Reason
from serving.known_models import known_shape
from serving.model_config import checkpoint_bytes, decoder_sizes, model_shape
from serving.model_memory import PaddingCost, padding_cost
from serving.model_shapes import DecoderSizes, ModelShape, Quantization
from serving.profiles import PROFILES
from serving.sharding import Padding, Verdict, appended, check, describe_padding

MAX_DEVICES = 8
_NEAREST_COUNT = 4
_RETRY_S = 10.0
_PADDABLE_METHODS = ("fp8", "compressed-tensors", "awq", "auto_awq", "awq_marlin")
"""VLLM's names of what padding knows."""
_ADAPTERS = "LoRA adapters of a padded model cannot be loaded"


@dataclass(frozen=True)
class Layout:
    """Tensor parallel times pipeline parallel devices."""

    tensor_parallel_size: int
    pipeline_parallel_size: int

    @property
    def devices_count(self) -> int:
        """Ranks in all."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def __str__(self) -> str:
        """The settings that are not 1."""
        tensor, pipeline = self.tensor_parallel_size, self.pipeline_parallel_size
        parts = [f"tensor_parallel_size = {tensor}"] if tensor > 1 or pipeline == 1 else []
        parts += [f"pipeline_parallel_size = {pipeline}"] if pipeline > 1 else []
        return " with ".join(parts)


@dataclass(frozen=True)
class Prepared:
    """What the preflight knows of a model that may start."""

    sizes: DecoderSizes | None
    """As stored; None for models of another kind, which are left to vLLM."""
    padding: Padding | None
    """What is appended; None when the model runs as it is."""
    tensor_parallel_size: int

    @property
    def zeros(self) -> Padding:
        """How much of each size is zeros."""
        return appended(self.sizes, self.padding) if self.sizes else Padding(0, 0, 0, 0)

    @property
    def cost(self) -> PaddingCost:
        """What the zeros add; nothing for weights in a format whose bytes are not known."""
        if self.padding is None or not isinstance(self.sizes, ModelShape):
            return PaddingCost(0.0, 0.0)
        return padding_cost(self.sizes, self.padding, self.tensor_parallel_size)

    def __str__(self) -> str:
        """E.g. "45/9 heads, 5/1 padded, +1.5 % weights, +12.5 % KV"; "none"."""
        if self.sizes is None or self.padding is None:
            return "none"
        return f"{describe_padding(self.sizes, self.padding)}, {self.cost}"


def judge_layout(sizes: DecoderSizes, layout: Layout, *, may_pad: bool) -> Verdict:
    """See serving.sharding.check."""
    return check(sizes, layout.tensor_parallel_size, layout.pipeline_parallel_size, may_pad=may_pad)


def nearest_layouts(wanted: Layout, runs: Callable[[Layout], bool], most_devices: int = MAX_DEVICES) -> list[Layout]:
    """Layouts that run, nearest first: by the number of devices, and never more unless none is left, then by speed.

    Args:
        wanted: the layout that was refused.
        runs: whether a layout runs.
        most_devices: devices that there are.
    """
    counts = range(1, most_devices + 1)
    layouts = itertools.starmap(Layout, itertools.product(counts, counts))
    running = [layout for layout in layouts if layout.devices_count <= most_devices and runs(layout)]

    def distance(layout: Layout) -> tuple[bool, int, int]:
        extra = layout.devices_count - wanted.devices_count
        return extra > 0, abs(extra), -layout.tensor_parallel_size

    return sorted(running, key=distance)[:_NEAREST_COUNT]


def check_layout(config: LlmConfig, devices: Devices | None = None) -> Prepared:
    """Checks layout and memory of a dense decoder whose sizes are at hand; all others are left to vLLM.

    Args:
        config: settings, laid out.
        devices: what the engine will have; None leaves memory unchecked.

    Raises:
        MaifsError: MODEL_UNUSABLE with every rule broken and the nearest layouts that run; BACKEND_UNAVAILABLE while
            others hold memory that the engine wants.
    """
    sizes = find_sizes(config.model)
    if sizes is None:
        _check_free(config, None, devices)
        return Prepared(None, None, config.tensor_parallel_size)
    _check_format(config, sizes)
    judge = _Judge(config, sizes, devices)
    wanted = Layout(config.tensor_parallel_size, config.pipeline_parallel_size)
    faults, padding = judge(wanted)
    if faults:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{config.model} cannot run with {wanted}: {'; '.join(faults)}.",
            judge.advice(wanted),
        )
    _check_free(config, judge.demand(wanted, padding), devices)
    return Prepared(sizes, padding, config.tensor_parallel_size)


def _check_free(config: LlmConfig, demand: Demand | None, devices: Devices | None) -> None:
    """A shortage that may pass: the service's supervisor starts it again."""
    faults = busy_faults(config, demand, devices) if devices else []
    if faults:
        raise MaifsError(
            Reason.BACKEND_UNAVAILABLE,
            f"{config.model} cannot start now: {'; '.join(faults)}.",
            "`coordinator-cli gpu check` tells who holds a GPU's memory; or lower gpu_memory_utilization."
            if devices and devices.gpus
            else "End what holds the memory, or lower cpu_kv_cache_gib.",
            retry_after_s=_RETRY_S,
        )


def _check_format(config: LlmConfig, sizes: DecoderSizes) -> None:
    """A profile may demand that the weights are stored in a format."""
    demanded = PROFILES[config.profile].quantization if config.profile else None
    stored = sizes.quantization if isinstance(sizes, ModelShape) else None
    if demanded not in {None, stored}:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"profile = {config.profile!r} needs weights stored as {demanded}; those of {config.model} are "
            f"{stored or 'in another format'}.",
            f"Set model to a checkpoint of it with {demanded} weights, or choose another profile.",
        )


def _as_loaded(config: LlmConfig, sizes: DecoderSizes) -> DecoderSizes:
    """The sizes with what the settings change in them."""
    if config.adapters:
        sizes = replace(sizes, padding_obstacle=_ADAPTERS)
    method = config.quantization
    if method == Quantization.FP8 and isinstance(sizes, ModelShape) and sizes.quantization is Quantization.BF16:
        return sizes.quantized(Quantization.FP8)
    if method and method not in _PADDABLE_METHODS:
        return replace(sizes, padding_obstacle=f"weights with quantization = {method!r} cannot be padded")
    return sizes


def _demand(sizes: DecoderSizes, layout: Layout, padding: Padding | None) -> Demand | None:
    if not isinstance(sizes, ModelShape):
        return None
    return Demand(sizes, padding, layout.tensor_parallel_size, layout.pipeline_parallel_size)


class _Judge:
    """The faults of layouts of one model on these devices."""

    def __init__(self, config: LlmConfig, sizes: DecoderSizes, devices: Devices | None) -> None:
        self._config, self._devices = config, devices
        self._may_pad = config.pad_heads == "auto"
        self._sizes = _as_loaded(config, sizes)

    def __call__(self, layout: Layout) -> tuple[list[str], Padding | None]:
        """Faults, and what is appended."""
        verdict = judge_layout(self._sizes, layout, may_pad=self._may_pad)
        faults = list(verdict.faults)
        if not faults:
            faults = self._memory_faults(self._sizes, layout, verdict.padding)
        return faults, verdict.padding

    def _memory_faults(self, sizes: DecoderSizes, layout: Layout, padding: Padding | None) -> list[str]:
        demand = _demand(sizes, layout, padding)
        return memory_faults(self._config, demand, self._devices) if demand and self._devices else []

    def demand(self, layout: Layout, padding: Padding | None) -> Demand | None:
        """What a layout asks of the devices; None for a model whose bytes are not known."""
        return _demand(self._sizes, layout, padding)

    def advice(self, wanted: Layout) -> str:
        """What would run instead."""
        most = len(self._devices.gpus) if self._devices and self._devices.gpus else MAX_DEVICES
        nearest = nearest_layouts(wanted, lambda layout: not self(layout)[0], most)
        named = "; ".join(f"{layout} (padded)" if self(layout)[1] else str(layout) for layout in nearest)
        parts = [
            f"The nearest layouts that run: {named}."
            if named
            else "No layout runs on " + (f"up to {most} devices." if most > 1 else "one device.")
        ]
        if wanted.devices_count > 1 and Layout(1, 1) in nearest:
            parts.append("As one device holds the model, as many services of one device each (replicas) run too.")
        if not self._may_pad and judge_layout(self._sizes, wanted, may_pad=True).padding:
            parts.append('With pad_heads = "auto" it runs as it is wanted, padded by zero heads.')
        if self._awq_runs(wanted):
            parts.append(f"With weights of 4 bits (an AWQ checkpoint of the model) {wanted} runs.")
        return " ".join(parts)

    def _awq_runs(self, wanted: Layout) -> bool:
        if not isinstance(self._sizes, ModelShape) or self._sizes.quantization is Quantization.AWQ:
            return False
        small = self._sizes.quantized(Quantization.AWQ)
        verdict = judge_layout(small, wanted, may_pad=self._may_pad)
        return not verdict.faults and not self._memory_faults(small, wanted, verdict.padding)


def find_sizes(model: str) -> DecoderSizes | None:
    """The sizes of a dense decoder, from its config.json or the table of known models; None where there are none.

    They are a ModelShape, from which bytes follow, where the weights are stored in a format that is planned; of a
    directory with the exact bytes of its files.

    Raises:
        MaifsError: MODEL_UNUSABLE when a safetensors file cannot be read.
    """
    table = find_model_config(model)
    if table is None:
        return known_shape(model)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        shape = model_shape(table, model)
        return replace(shape, checkpoint_bytes=checkpoint_bytes(Path(model)))
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        return decoder_sizes(table)
    return None
