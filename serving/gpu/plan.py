"""Ways to share a host's GPUs between the language model and the vision service, judged and ranked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from serving import model_memory, sharding
from serving.gpu.hosts import GIB, GpuSpec, Host
from serving.model_shapes import ModelShape, Quantization
from serving.profiles import PROFILES


class Vision(StrEnum):
    """Where the vision service runs."""

    OWN_GPU = "own GPU"
    SHARED_GPU = "shared GPU"
    CPU = "CPU"


@dataclass(frozen=True)
class Layout:
    """Who gets what."""

    llm_gpus: int
    vision_gpus: int
    vision: Vision
    quantization: Quantization
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    replicas: int = 1
    offload_gib: int = 0
    """Weights per GPU kept in the host's memory."""

    @property
    def profile(self) -> str | None:
        """The named profile that this is; None when it has no name."""
        if self.vision is not Vision.OWN_GPU or self.replicas > 1:
            return None
        mine = (self.llm_gpus, self.tensor_parallel, self.pipeline_parallel, self.offload_gib)
        names = [
            name
            for name, profile in PROFILES.items()
            if mine == (profile.llm_gpus, profile.tensor_parallel, profile.pipeline_parallel, profile.offload_gib)
            and profile.vision_gpus in {None, self.vision_gpus}
            and profile.quantization in {None, self.quantization}
        ]
        return max(names, key=lambda name: PROFILES[name].quantization is not None, default=None)

    @property
    def title(self) -> str:
        """E.g. "3+1 TP=3 bf16"."""
        parts = [f"TP={self.tensor_parallel}"] if self.tensor_parallel > 1 or self.pipeline_parallel == 1 else []
        parts += [f"PP={self.pipeline_parallel}"] if self.pipeline_parallel > 1 else []
        if self.replicas > 1:
            parts = [f"{self.replicas} replicas"]
        tail = f" + {self.offload_gib} GiB offload" if self.offload_gib else ""
        tail += {Vision.SHARED_GPU: ", vision shares a GPU", Vision.CPU: ", vision on CPU"}.get(self.vision, "")
        return f"{self.llm_gpus}+{self.vision_gpus} {' '.join(parts)} {self.quantization}{tail}"


@dataclass(frozen=True)
class Assumptions:
    """What the numbers rest on."""

    max_model_len_tokens: int = 4096
    """Longest prompt plus answer; the length of the counted sequences."""
    memory_utilization: float = 0.92
    """Share of each GPU's memory that the engine reserves."""
    overhead_bytes: int = model_memory.ENGINE_OVERHEAD_BYTES
    """Per GPU for activations, CUDA graphs and communication."""
    vision_bytes: int = 4 * GIB
    """Budget of the vision service on its GPU."""
    link_bytes_per_s: float = 25e9
    """Host to GPU: PCIe 4.0 x16 as it is reached, of 31.5 GB/s."""


@dataclass(frozen=True)
class Option:
    """A layout with its verdict."""

    layout: Layout
    reasons: tuple[str, ...]
    """Why it cannot run; empty when it can."""
    notes: tuple[str, ...]
    """What it needs or costs."""
    padding: sharding.Padding | None
    weights_bytes: tuple[float, ...]
    """Per GPU, one number for each pipeline stage; without what is offloaded."""
    kv_bytes: tuple[float, ...]
    """Per GPU for the KV cache, one number for each stage; negative when the weights do not fit."""
    sequences: int
    """At max_model_len_tokens, over all replicas."""
    decode_tokens_per_s: float
    """Upper bound of one sequence."""

    @property
    def valid(self) -> bool:
        """Whether it can run."""
        return not self.reasons

    @property
    def served(self) -> bool:
        """Whether our services can be configured for it: one engine."""
        return self.layout.replicas == 1


@dataclass(frozen=True)
class Plan:
    """All options for a host and a model, best first."""

    host: Host
    shape: ModelShape
    assumptions: Assumptions
    options: tuple[Option, ...] = field(default=())

    @property
    def best(self) -> Option | None:
        """The first valid option."""
        return next((option for option in self.options if option.valid), None)

    @property
    def best_for_services(self) -> Option | None:
        """The first valid option that our services run as they are."""
        return next((option for option in self.options if option.valid and option.served), None)


RANKING = (
    "valid ones first; then vision on a GPU of its own, no offload, 16-bit weights before 8-bit before 4-bit, faster "
    "decoding, more sequences"
)


def make_plan(host: Host, shape: ModelShape, quantizations: Sequence[Quantization], assumptions: Assumptions) -> Plan:
    """Judges every layout.

    Args:
        host: with at least one GPU.
        shape: the model.
        quantizations: storage formats to consider; a checkpoint that is quantised already allows only its own.
        assumptions: see there.
    """
    layouts = _layouts(len(host.gpus), quantizations)
    options = [judge(layout, host, shape, assumptions) for layout in layouts]
    return Plan(host, shape, assumptions, tuple(sorted(options, key=_rank)))


def _rank(option: Option) -> tuple[object, ...]:
    order = list(Quantization)
    layout = option.layout
    return (
        not option.valid,
        layout.vision is not Vision.OWN_GPU,
        layout.offload_gib,
        order.index(layout.quantization),
        -option.decode_tokens_per_s,
        -option.sequences,
    )


def _layouts(count: int, quantizations: Sequence[Quantization]) -> Iterator[Layout]:
    most = count - 1
    for llm in sorted({most, count // 2, min(1, most)} - {0}, reverse=True):
        for quantization in quantizations:
            yield Layout(llm, count - llm, Vision.OWN_GPU, quantization, tensor_parallel=llm)
    first = quantizations[0]
    if most > 1:
        for quantization in quantizations:
            yield Layout(most, 1, Vision.OWN_GPU, quantization, replicas=most)
        yield Layout(most, 1, Vision.OWN_GPU, first, pipeline_parallel=most)
    if most:
        yield Layout(most, 1, Vision.OWN_GPU, first, tensor_parallel=most, offload_gib=20)
    yield Layout(count, 0, Vision.SHARED_GPU, first, tensor_parallel=count)
    yield Layout(count, 0, Vision.CPU, first, tensor_parallel=count)


def judge(layout: Layout, host: Host, shape: ModelShape, assumptions: Assumptions) -> Option:
    """The verdict on one layout, with its numbers whether it can run or not."""
    stored = shape.quantized(layout.quantization)
    verdict = sharding.check(stored, layout.tensor_parallel, layout.pipeline_parallel)
    wide = model_memory.padded_shape(stored, verdict.padding)
    stages = model_memory.stage_bytes(wide, layout.tensor_parallel, layout.pipeline_parallel)
    gpus = host.gpus[: layout.llm_gpus]
    memory = min(gpu.memory_bytes for gpu in gpus)
    offload = layout.offload_gib * GIB
    budget = memory * assumptions.memory_utilization - assumptions.overhead_bytes
    fit = model_memory.fit(stages, budget, assumptions.max_model_len_tokens, offload)
    rate = model_memory.decode_tokens_per_s(
        stages, min(gpu.bandwidth_bytes_per_s for gpu in gpus), offload, assumptions.link_bytes_per_s
    )
    reasons = [*verdict.faults, *_hardware_faults(layout, host)]
    if fit.fault:
        reasons.append(fit.fault)
    reasons += _vision_faults(layout, host, assumptions)
    padding = verdict.padding
    notes = _notes(layout, stored, padding, [stage.weights for stage in stages], budget)
    count = fit.sequences * layout.replicas
    return Option(layout, tuple(reasons), tuple(notes), padding, fit.weights_bytes, fit.kv_bytes, count, rate)


def _hardware_faults(layout: Layout, host: Host) -> list[str]:
    gpus = host.gpus[: layout.llm_gpus]
    faults = [f"GPU {gpu.index} is split by MIG" for gpu in gpus if gpu.mig]
    least = (7, 5) if layout.quantization is not Quantization.BF16 else (8, 0)
    for gpu in {gpu.name: gpu for gpu in gpus if gpu.compute_capability < least}.values():
        have, need = (".".join(map(str, pair)) for pair in (gpu.compute_capability, least))
        faults.append(f"{gpu.name} has compute capability {have}; {layout.quantization} needs {need}")
    return faults


def _vision_faults(layout: Layout, host: Host, assumptions: Assumptions) -> list[str]:
    if layout.vision is Vision.CPU:
        return []
    if layout.vision is Vision.SHARED_GPU:
        faults = ["vision has no GPU of its own, and no device pin can part two services on one GPU"]
        left = min(gpu.memory_bytes for gpu in host.gpus) * (1 - assumptions.memory_utilization)
        if left < assumptions.vision_bytes:
            wanted = assumptions.vision_bytes / GIB
            faults.append(f"the engine leaves {left / GIB:.1f} GiB where vision may use {wanted:.0f} GiB")
        return faults
    own = host.gpus[layout.llm_gpus :]
    return [
        f"vision may use {assumptions.vision_bytes / GIB:.0f} GiB and its GPU has {gpu.memory_bytes / GIB:.1f} GiB"
        for gpu in own
        if gpu.memory_bytes < assumptions.vision_bytes
    ]


def _notes(
    layout: Layout,
    shape: ModelShape,
    padding: sharding.Padding | None,
    weights: Sequence[float],
    budget: float,
) -> list[str]:
    notes = []
    if padding:
        cost = model_memory.padding_cost(shape, padding, layout.tensor_parallel)
        notes.append(f"vLLM refuses it unpadded; {sharding.describe_padding(shape, padding)}, {cost}")
    if layout.tensor_parallel in {3, 5, 7}:
        notes.append("no custom all-reduce for this size: NCCL instead")
    if layout.pipeline_parallel > 1:
        split = ",".join(map(str, sharding.split_layers(shape.layers, layout.pipeline_parallel)))
        notes.append(f"layers {split}; no faster than one GPU for a single sequence")
    if layout.replicas > 1:
        notes.append("one LLM service per replica; the units run one of them")
    if layout.offload_gib:
        notes.append("every token fetches the offloaded weights through PCIe")
        if max(weights) < budget:
            notes.append(f"pointless here: {max(weights) / GIB:.1f} GiB of weights fit into {budget / GIB:.1f} GiB")
    if layout.vision is Vision.CPU:
        notes.append("vision works as on a GPU, only slower")
    if layout.vision_gpus > 1:
        notes.append("one vision service per GPU; the coordinator shares the pictures among them")
    return notes


def pick(gpus: Sequence[GpuSpec], layout: Layout) -> tuple[tuple[GpuSpec, ...], tuple[GpuSpec, ...]]:
    """The LLM's and the vision service's GPUs."""
    end = layout.llm_gpus + (layout.vision_gpus if layout.vision is Vision.OWN_GPU else 0)
    return tuple(gpus[: layout.llm_gpus]), tuple(gpus[layout.llm_gpus : end])
