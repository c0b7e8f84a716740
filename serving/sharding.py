"""How a model splits over GPUs: vLLM's rules, padding by zero heads, bytes per GPU, sequences, decode bound.

Pure arithmetic on shapes. vLLM checks only the query heads before it starts; the other rules are assertions inside
its workers, so that a configuration which breaks them dies after minutes without a word for people. The rules are
those of vLLM 0.32 for dense decoders: QKVParallelLinear (heads), Attention (query heads per KV head),
RowParallelLinear and MergedColumnParallelLinear (intermediate size), VocabParallelEmbedding (padded vocabulary),
MarlinLinearKernel (whole groups of 4-bit weights; odd widths it pads itself), validate_fp8_block_shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from serving.model_shapes import DecoderSizes, ModelShape

VOCAB_MULTIPLE = 64
"""vLLM rounds the vocabulary up to this before it divides it by the tensor parallel size."""
LLM_SERVICE_PADS_HEADS = False
"""Whether our LLM service appends zero heads by itself; its preflight refuses layouts that need them otherwise."""
KV_ELEMENT_BYTES = 2
"""The KV cache holds 16-bit numbers."""


@dataclass(frozen=True)
class HeadPadding:
    """Zero heads appended so that heads divide. Exact: a zero key gives a uniform softmax over zero values, and the
    padded columns of the output projection are zero.
    """

    query_heads: int
    kv_heads: int


@dataclass(frozen=True)
class Verdict:
    """Whether a model runs with a tensor and pipeline parallel size."""

    faults: tuple[str, ...]
    """Rules that no padding of heads mends; empty when it can run."""
    padding: HeadPadding | None
    """Heads that the model needs; None when it runs as it is."""


def kv_heads_divide(kv_heads: int, tensor_parallel: int) -> bool:
    """VLLM's rule: heads are dealt out evenly, or each is repeated on an equal number of GPUs."""
    if kv_heads >= tensor_parallel:
        return kv_heads % tensor_parallel == 0
    return tensor_parallel % kv_heads == 0


def pad_heads(query_heads: int, kv_heads: int, tensor_parallel: int) -> HeadPadding | None:
    """The smallest whole KV groups to which zero heads must be appended; None when nothing needs to be appended.

    kv' = smallest multiple of `tensor_parallel` that is at least `kv_heads`; q' = kv' * q / kv, so that each KV head
    keeps its query heads.
    """
    if query_heads % tensor_parallel == 0 and kv_heads_divide(kv_heads, tensor_parallel):
        return None
    kv = math.ceil(kv_heads / tensor_parallel) * tensor_parallel
    return HeadPadding(kv * (query_heads // kv_heads), kv)


def padded(shape: ModelShape, padding: HeadPadding | None) -> ModelShape:
    """The shape with its zero heads; exact file sizes are scaled with it."""
    if padding is None:
        return shape
    wide = replace(shape, query_heads=padding.query_heads, kv_heads=padding.kv_heads)
    if shape.checkpoint_bytes is None:
        return wide
    growth = _total_bytes(wide) / _total_bytes(shape)
    return replace(wide, checkpoint_bytes=round(shape.checkpoint_bytes * growth))


def check(shape: ModelShape, tensor_parallel: int, pipeline_parallel: int = 1) -> Verdict:
    """Applies `find_faults` to a layout, with zero heads appended where only the heads stand in the way."""
    has_groups = shape.query_heads % shape.kv_heads == 0
    padding = pad_heads(shape.query_heads, shape.kv_heads, tensor_parallel) if has_groups else None
    return Verdict(tuple(find_faults(padded(shape, padding), tensor_parallel, pipeline_parallel)), padding)


def find_faults(sizes: DecoderSizes, tensor_parallel: int, pipeline_parallel: int = 1) -> list[str]:
    """The rules of vLLM that a layout breaks, with numbers; empty when the model runs as it is."""
    faults = _head_faults(sizes, tensor_parallel)
    if sizes.intermediate_size % tensor_parallel:
        faults.append(
            f"the intermediate size {sizes.intermediate_size} does not divide by {tensor_parallel} "
            f"(the next that does: {_next_multiple(sizes.intermediate_size, tensor_parallel)})"
        )
    vocab = _next_multiple(sizes.vocab_size, VOCAB_MULTIPLE)
    if vocab % tensor_parallel:
        faults.append(f"the vocabulary of {sizes.vocab_size}, padded to {vocab}, does not divide by {tensor_parallel}")
    if not faults and tensor_parallel > 1:
        faults += _block_faults(sizes, tensor_parallel)
    if sizes.layers < pipeline_parallel:
        faults.append(f"{sizes.layers} layers are fewer than {pipeline_parallel} pipeline stages")
    return faults


def _head_faults(sizes: DecoderSizes, tensor_parallel: int) -> list[str]:
    faults = []
    if sizes.query_heads % sizes.kv_heads:
        faults.append(f"{sizes.query_heads} attention heads are no multiple of {sizes.kv_heads} KV heads")
    if sizes.query_heads % tensor_parallel:
        faults.append(f"{sizes.query_heads} attention heads do not divide by {tensor_parallel}")
    if not kv_heads_divide(sizes.kv_heads, tensor_parallel):
        faults.append(f"{sizes.kv_heads} KV heads neither divide by {tensor_parallel} nor divide {tensor_parallel}")
    return faults


def _block_faults(sizes: DecoderSizes, tensor_parallel: int) -> list[str]:
    """Whole quantisation blocks on each rank: of row-parallel weights' inputs, of column-parallel weights' outputs.

    Outputs that part an FP8 block pass vLLM's own check, and each rank but the first then loads its neighbour's
    scales; widths that part a packed word are rounded down.
    """
    attention = sizes.query_heads * sizes.head_dim // tensor_parallel
    kv = max(1, sizes.kv_heads // tensor_parallel) * sizes.head_dim
    inner = sizes.intermediate_size // tensor_parallel
    widths = [
        ("attention output", attention, sizes.block.inputs),
        ("intermediate size", inner, sizes.block.inputs),
        ("query", attention, sizes.block.outputs),
        ("key and value", kv, sizes.block.outputs),
        ("intermediate size", inner, sizes.block.outputs),
    ]
    faults = [
        f"the {name} of each rank, {width}, is not whole quantisation blocks of {block}"
        for name, width, block in widths
        if width % block
    ]
    return list(dict.fromkeys(faults))


def _next_multiple(value: int, step: int) -> int:
    return math.ceil(value / step) * step


def split_layers(layers: int, stages: int) -> tuple[int, ...]:
    """VLLM's split: what does not divide goes to the stages before the last, from the back."""
    each, rest = divmod(layers, stages)
    counts = [each] * stages
    for i in range(2, rest + 2):
        counts[-i] += 1
    return tuple(counts)


@dataclass(frozen=True)
class StageBytes:
    """Bytes on each GPU of a pipeline stage."""

    weights: float
    read_per_token: float
    """Weights that one decoded token reads: all but the input embedding, of which it needs one row."""
    kv_per_token: int


def stage_bytes(shape: ModelShape, tensor_parallel: int, pipeline_parallel: int = 1) -> tuple[StageBytes, ...]:
    """What each pipeline stage needs on each of its GPUs.

    Args:
        shape: with its zero heads, if any.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: stages.
    """
    scale = shape.checkpoint_bytes / _total_bytes(shape) if shape.checkpoint_bytes else 1.0
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
    return 2.0 * _next_multiple(shape.vocab_size, VOCAB_MULTIPLE) * shape.hidden_size / tensor_parallel


def _total_bytes(shape: ModelShape) -> float:
    """All weights in one place, as a checkpoint holds them."""
    embeddings = 2.0 * shape.embedding_parameters * (1 if shape.tied_embeddings else 2)
    return shape.layers * _layer_bytes(shape, 1) + embeddings + 2 * shape.hidden_size


def sequences(stages: Sequence[StageBytes], kv_bytes: Sequence[float], tokens: int) -> int:
    """Sequences of `tokens` tokens whose KV cache fits; the tightest stage decides.

    Args:
        stages: see stage_bytes.
        kv_bytes: bytes left for the cache on each GPU of each stage.
        tokens: length of one sequence.
    """
    return min(
        max(0, math.floor(left / (stage.kv_per_token * tokens))) for stage, left in zip(stages, kv_bytes, strict=True)
    )


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
