"""Can this model be laid over these devices? Answered from config.json, before the engine is started.

vLLM checks the attention heads itself, and the rest by bare assertions inside its worker processes. The rules here
are those of vLLM 0.32 for dense decoder models: QKVParallelLinear (heads), RowParallelLinear and
MergedColumnParallelLinear (intermediate size), VocabParallelEmbedding (vocabulary, padded to 64), whole quantisation
groups in each shard of a row-parallel weight, whole FP8 blocks in each shard.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_service.config import LlmConfig
from llm_service.model_files import read_model_config
from serving.errors import MaifsError, Reason

VOCAB_PADDING = 64
MAX_DEVICES = 8
_NEAREST_COUNT = 3


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
        return f"tensor_parallel_size = {self.tensor_parallel_size}, " + (
            f"pipeline_parallel_size = {self.pipeline_parallel_size}"
        )


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a dense decoder that a layout must divide."""

    layers: int
    attention_heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    quantization_group_size: int = 0
    """Input rows that share a scale (AWQ, GPTQ); 0 without groups."""
    block_sizes: tuple[int, int] | None = None
    """Output and input sizes of an FP8 block; None without blocks."""

    @classmethod
    def from_config(cls, table: Mapping[str, Any]) -> ModelShape | None:
        """Reads config.json; None for a model that is not described by these sizes (experts, latent attention)."""
        table = {**table, **(table.get("text_config") or {})}
        if any(name in table for name in ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank")):
            return None
        try:
            heads, hidden = int(table["num_attention_heads"]), int(table["hidden_size"])
            quantization = table.get("quantization_config") or {}
            blocks = quantization.get("weight_block_size")
            return cls(
                layers=int(table["num_hidden_layers"]),
                attention_heads=heads,
                kv_heads=int(table.get("num_key_value_heads") or heads),
                head_dim=int(table.get("head_dim") or hidden // heads),
                intermediate_size=int(table["intermediate_size"]),
                vocab_size=int(table["vocab_size"]),
                quantization_group_size=max(0, int(quantization.get("group_size") or 0)),
                block_sizes=(int(blocks[0]), int(blocks[1])) if blocks else None,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError):
            return None


def layout_faults(shape: ModelShape, layout: Layout) -> list[str]:
    """The rules that a layout breaks, with numbers; empty when it runs."""
    tp, faults = layout.tensor_parallel_size, []
    if shape.attention_heads % tp:
        faults.append(f"{shape.attention_heads} attention heads do not divide by {tp}")
    smaller, larger = sorted((shape.kv_heads, tp))
    if larger % smaller:
        faults.append(f"{shape.kv_heads} KV heads neither divide by {tp} nor divide {tp}")
    if shape.intermediate_size % tp:
        faults.append(f"the intermediate size {shape.intermediate_size} does not divide by {tp}")
    padded = -(-shape.vocab_size // VOCAB_PADDING) * VOCAB_PADDING
    if padded % tp:
        faults.append(f"the vocabulary of {shape.vocab_size}, padded to {padded}, does not divide by {tp}")
    if not faults:
        faults = _quantization_faults(shape, tp)
    if layout.pipeline_parallel_size > shape.layers:
        faults.append(f"{shape.layers} layers are fewer than {layout.pipeline_parallel_size} pipeline stages")
    return faults


def _quantization_faults(shape: ModelShape, tp: int) -> list[str]:
    """Shards of the row-parallel inputs (attention output, intermediate size) must hold whole groups or blocks."""
    if tp == 1:
        return []
    inputs = {
        "attention output": shape.attention_heads * shape.head_dim // tp,
        "intermediate size": shape.intermediate_size // tp,
    }
    outputs = {
        "query": shape.attention_heads * shape.head_dim // tp,
        "key and value": max(1, shape.kv_heads // tp) * shape.head_dim,
        "intermediate size": shape.intermediate_size // tp,
    }
    faults = []
    if group := shape.quantization_group_size:
        faults += [f"the {n} of each rank, {s}, is not whole groups of {group}" for n, s in inputs.items() if s % group]
    if shape.block_sizes:
        sizes = [(n, s, shape.block_sizes[1]) for n, s in inputs.items()]
        sizes += [(n, s, shape.block_sizes[0]) for n, s in outputs.items()]
        faults += [f"the {n} of each rank, {s}, is not whole blocks of {block}" for n, s, block in sizes if s % block]
    return list(dict.fromkeys(faults))


def nearest_layouts(shape: ModelShape, wanted: Layout) -> list[Layout]:
    """Layouts that run, nearest first: by the number of devices, and never more unless none is left, then by speed."""
    sizes = range(1, MAX_DEVICES + 1)
    runs = [
        layout
        for layout in itertools.starmap(Layout, itertools.product(sizes, sizes))
        if layout.devices_count <= MAX_DEVICES and not layout_faults(shape, layout)
    ]

    def distance(layout: Layout) -> tuple[bool, int, int]:
        extra = layout.devices_count - wanted.devices_count
        return extra > 0, abs(extra), -layout.tensor_parallel_size

    return sorted(runs, key=distance)[:_NEAREST_COUNT]


def check_layout(config: LlmConfig) -> None:
    """Checks the layout of a model that is given as a directory; a name's config.json is left to vLLM.

    Raises:
        MaifsError: MODEL_UNUSABLE with every rule broken and the nearest layouts that run.
    """
    table = read_model_config(Path(config.model))
    shape = ModelShape.from_config(table) if table else None
    if shape is None:
        return
    wanted = Layout(config.tensor_parallel_size, config.pipeline_parallel_size)
    faults = layout_faults(shape, wanted)
    if faults:
        nearest = "; ".join(str(layout) for layout in nearest_layouts(shape, wanted))
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{config.model} cannot run with {wanted}: {'; '.join(faults)}.",
            f"The nearest layouts that run: {nearest}." if nearest else "No layout on up to 8 devices runs.",
        )
