"""What a language model needs on each GPU: bytes of weights and KV cache, sequences that fit, a bound on decoding.

Pure arithmetic on shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving.model_shapes import ModelShape
from serving.sharding import VOCAB_MULTIPLE, Padding, kv_heads_divide, next_multiple, padded, split_layers

KV_ELEMENT_BYTES = 2
"""The KV cache holds 16-bit numbers."""
GIB = 1024**3
ENGINE_OVERHEAD_BYTES = 2 * GIB
"""Assumed on each GPU for activations, CUDA graphs and communication."""


def padded_shape(shape: ModelShape, padding: Padding | None) -> ModelShape:
    """The shape with what is appended; exact file sizes are scaled with it."""
    wide = padded(shape, padding)
    if shape.checkpoint_bytes is None or padding is None:
        return wide
    growth = total_bytes(wide) / total_bytes(shape)
    return replace(wide, checkpoint_bytes=round(shape.checkpoint_bytes * growth))


@dataclass(frozen=True)
class PaddingCost:
    """What padding adds, as shares of the unpadded model."""

    weights: float
    kv: float
    """Of the KV cache of one token over all GPUs, repeated heads counted as often as they are held."""

    def __str__(self) -> str:
        """E.g. "+1.5 % weights, +12.5 % KV"."""
        return f"+{self.weights:.1%} weights, +{self.kv:.1%} KV".replace("%", " %")


def padding_cost(shape: ModelShape, padding: Padding, tensor_parallel: int) -> PaddingCost:
    """The price of a padding.

    Args:
        shape: as it is stored.
        padding: what is appended.
        tensor_parallel: GPUs that share each layer.
    """
    wide = replace(padded(shape, padding), checkpoint_bytes=None)
    plain = replace(shape, checkpoint_bytes=None)
    own = max(shape.kv_heads, tensor_parallel) if kv_heads_divide(shape.kv_heads, tensor_parallel) else shape.kv_heads
    held = max(wide.kv_heads, tensor_parallel) / own
    return PaddingCost(total_bytes(wide) / total_bytes(plain) - 1, held - 1)


@dataclass(frozen=True)
class StageBytes:
    """Bytes on each GPU of a pipeline stage."""

    weights: float
    read_per_token: float
    """Weights that one decoded token reads: all but the input embedding, of which it needs one row."""
    kv_per_token: int

    def scaled(self, factor: float) -> StageBytes:
        """With numbers of another size, e.g. 2 for 32 bits."""
        return StageBytes(self.weights * factor, self.read_per_token * factor, round(self.kv_per_token * factor))


def stage_bytes(shape: ModelShape, tensor_parallel: int, pipeline_parallel: int = 1) -> tuple[StageBytes, ...]:
    """What each pipeline stage needs on each of its GPUs.

    Args:
        shape: with its zero heads, if any.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: stages.
    """
    scale = shape.checkpoint_bytes / total_bytes(shape) if shape.checkpoint_bytes else 1.0
    layer, embedding = _layer_bytes(shape, tensor_parallel), _embedding_bytes(shape, tensor_parallel)
    kv_heads = max(1, shape.kv_heads // tensor_parallel)
    last = pipeline_parallel - 1
    stages = []
    for stage, layers in enumerate(split_layers(shape.layers, pipeline_parallel)):
        head = embedding + 2 * shape.hidden_size if stage == last else 0.0
        is_shared = shape.tied_embeddings and last == 0
        lookup = embedding if stage == 0 and not is_shared else 0.0
        read = (layers * layer + head) * scale
        kv = layers * 2 * kv_heads * shape.head_dim * KV_ELEMENT_BYTES
        stages.append(StageBytes(read + lookup * scale, read, kv))
    return tuple(stages)


def _layer_bytes(shape: ModelShape, tensor_parallel: int) -> float:
    """One layer on one GPU: linear weights and biases divided (few KV heads repeated), norms on each."""
    repeats = max(1.0, tensor_parallel / shape.kv_heads)
    q, k, v, *rest = (shape.linear_bytes(*matrix) for matrix in shape.layer_matrices)
    linear = q + (k + v) * repeats + sum(rest)
    if shape.qkv_bias:
        linear += 2 * (shape.query_heads + 2 * shape.kv_heads * repeats) * shape.head_dim
    norms = 2 * (2 * shape.hidden_size + (2 * shape.head_dim if shape.qk_norm else 0))
    return linear / tensor_parallel + norms


def _embedding_bytes(shape: ModelShape, tensor_parallel: int) -> float:
    return 2.0 * next_multiple(shape.vocab_size, VOCAB_MULTIPLE) * shape.hidden_size / tensor_parallel


def total_bytes(shape: ModelShape) -> float:
    """All weights in one place, as a checkpoint holds them; from the sizes alone."""
    embeddings = 2.0 * shape.embedding_parameters * (1 if shape.tied_embeddings else 2)
    return shape.layers * _layer_bytes(shape, 1) + embeddings + 2 * shape.hidden_size


@dataclass(frozen=True)
class Fit:
    """What memory is left for the KV cache, and what it holds. One number for each pipeline stage, per GPU."""

    weights_bytes: tuple[float, ...]
    """Without what is offloaded."""
    kv_bytes: tuple[float, ...]
    """Negative where the weights do not fit."""
    budget_bytes: float
    """For weights and KV cache on each GPU."""
    tokens: int
    """Length of one sequence."""
    sequences: int
    """That fit at the same time; the tightest stage decides."""

    @property
    def fault(self) -> str:
        """Why not even one sequence fits, with numbers; empty when one does."""
        if self.sequences:
            return ""
        if min(self.kv_bytes) <= 0:
            weights = max(self.weights_bytes) / GIB
            return f"weights of {weights:.1f} GiB per GPU do not fit into {self.budget_bytes / GIB:.1f} GiB"
        left = min(self.kv_bytes) / GIB
        return f"{left:.1f} GiB left for the KV cache do not hold one sequence of {self.tokens} tokens"


def fit(stages: Sequence[StageBytes], budget_bytes: float, tokens: int, offload_bytes: float = 0.0) -> Fit:
    """How a model fits into GPUs of equal budget.

    Args:
        stages: see stage_bytes.
        budget_bytes: for weights and KV cache on each GPU.
        tokens: length of one sequence.
        offload_bytes: weights per GPU that stay in the host's memory.
    """
    weights = tuple(max(0.0, stage.weights - offload_bytes) for stage in stages)
    kv = tuple(budget_bytes - here for here in weights)
    count = min(math.floor(left / (stage.kv_per_token * tokens)) for stage, left in zip(stages, kv, strict=True))
    return Fit(weights, kv, budget_bytes, tokens, max(0, count))


def decode_tokens_per_s(
    stages: Sequence[StageBytes], memory_bytes_per_s: float, offload_bytes: float = 0.0, link_bytes_per_s: float = 1.0
) -> float:
    """Upper bound of one sequence's decode rate: each token reads every weight once, stage after stage.

    Communication and kernels' own time only lower it.

    Args:
        stages: see stage_bytes.
        memory_bytes_per_s: bandwidth of the slowest GPU's memory.
        offload_bytes: weights per GPU that stay in the host's memory.
        link_bytes_per_s: bandwidth between host and GPU.
    """
    seconds = 0.0
    for stage in stages:
        away = min(offload_bytes, stage.read_per_token)
        seconds += (stage.read_per_token - away) / memory_bytes_per_s + away / link_bytes_per_s
    return 1.0 / seconds
