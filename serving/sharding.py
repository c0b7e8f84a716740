"""How a model splits over GPUs: vLLM's rules, and the padding by zeros that makes a model follow them.

Pure arithmetic on shapes. vLLM checks only the query heads before it starts; the other rules are assertions inside
its workers, so that a configuration which breaks them dies after minutes without a word for people. The rules are
those of vLLM 0.32 for dense decoders: QKVParallelLinear (heads), Attention (query heads per KV head),
RowParallelLinear and MergedColumnParallelLinear (intermediate size), VocabParallelEmbedding (padded vocabulary),
MarlinLinearKernel (whole groups of 4-bit weights; odd widths it pads itself), validate_fp8_block_shape.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from serving.model_shapes import DecoderSizes

S = TypeVar("S", bound=DecoderSizes)

VOCAB_MULTIPLE = 64
"""vLLM rounds the vocabulary up to this before it divides it by the tensor parallel size."""
_INTERMEDIATE_MULTIPLE = 64
"""Padded columns per GPU come in these, which matrix kernels work on without a remainder."""


@dataclass(frozen=True)
class Padding:
    """Sizes after zeros were appended, equal to the model's own where nothing was.

    Exact. A zero key and value give a uniform softmax over zero values, a zero query any softmax, and the columns of
    the output projection that read them are zero. silu(0) * 0 is zero and is read by zero columns. Padded rows of
    the vocabulary are cut off before sampling, as vLLM's own are.
    """

    query_heads: int
    kv_heads: int
    intermediate_size: int
    vocab_size: int


@dataclass(frozen=True)
class Verdict:
    """Whether a model runs with a tensor and pipeline parallel size."""

    faults: tuple[str, ...]
    """Rules that are broken and that no padding mends; empty when it can run."""
    padding: Padding | None
    """What the model needs to run; None when it runs as it is, or not at all."""


def kv_heads_divide(kv_heads: int, tensor_parallel: int) -> bool:
    """VLLM's rule: heads are dealt out evenly, or each is repeated on an equal number of GPUs."""
    if kv_heads >= tensor_parallel:
        return kv_heads % tensor_parallel == 0
    return tensor_parallel % kv_heads == 0


def check(sizes: DecoderSizes, tensor_parallel: int, pipeline_parallel: int = 1, *, may_pad: bool = True) -> Verdict:
    """Applies vLLM's rules to a layout, and pads where that helps.

    Args:
        sizes: the model as it is stored.
        tensor_parallel: GPUs that share each layer.
        pipeline_parallel: stages.
        may_pad: whether zeros may be appended.
    """
    faults = find_faults(sizes, tensor_parallel, pipeline_parallel)
    padding = find_padding(sizes, tensor_parallel) if faults and may_pad else None
    if padding is None:
        return Verdict(tuple(faults), None)
    if sizes.padding_obstacle:
        return Verdict((*faults, sizes.padding_obstacle), None)
    left = find_faults(padded(sizes, padding), tensor_parallel, pipeline_parallel)
    return Verdict(tuple(left), None if left else padding)


def find_faults(sizes: DecoderSizes, tensor_parallel: int, pipeline_parallel: int = 1) -> list[str]:
    """The rules of vLLM that a layout breaks, with numbers; empty when the model runs as it is."""
    faults = _head_faults(sizes, tensor_parallel)
    if sizes.intermediate_size % tensor_parallel:
        faults.append(f"the intermediate size {sizes.intermediate_size} does not divide by {tensor_parallel}")
    vocab = next_multiple(sizes.vocab_size, VOCAB_MULTIPLE)
    if vocab % tensor_parallel:
        faults.append(f"the vocabulary of {sizes.vocab_size}, padded to {vocab}, does not divide by {tensor_parallel}")
    if not faults:
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


def find_padding(sizes: DecoderSizes, tensor_parallel: int) -> Padding | None:
    """The smallest sizes that follow the rules of tensor parallelism; None when no padding by whole groups does."""
    heads = _pad_heads(sizes, tensor_parallel)
    if heads is None:
        return None
    block = math.lcm(sizes.block.inputs, sizes.block.outputs)
    inner = sizes.intermediate_size
    if inner % (block * tensor_parallel):
        if inner % block:
            return None
        inner = next_multiple(inner, math.lcm(_INTERMEDIATE_MULTIPLE, block) * tensor_parallel)
    vocab = sizes.vocab_size
    if next_multiple(vocab, VOCAB_MULTIPLE) % tensor_parallel:
        vocab = next_multiple(vocab, math.lcm(VOCAB_MULTIPLE, tensor_parallel))
    return Padding(*heads, inner, vocab)


def _pad_heads(sizes: DecoderSizes, tensor_parallel: int) -> tuple[int, int] | None:
    """Query and KV heads with the fewest zeros appended.

    Whole KV groups are appended, or, where the KV heads are repeated anyway, zero query heads to every group. Of two
    ways the one with fewer rows of weights on each GPU is taken, KV heads counted as repeated.
    """
    if sizes.query_heads % sizes.kv_heads:
        return None
    group = sizes.query_heads // sizes.kv_heads

    def cost(heads: tuple[int, int]) -> tuple[float, int]:
        query, kv = heads
        return query / tensor_parallel + max(1.0, kv / tensor_parallel), kv

    fitting = (
        heads for heads in _wider_heads(sizes.kv_heads, group, tensor_parallel) if _heads_fit(sizes, heads, group)
    )
    return min((heads for heads in fitting if _shards_fit(sizes, heads, tensor_parallel)), key=cost, default=None)


def _wider_heads(kv_heads: int, group: int, tensor_parallel: int) -> Iterator[tuple[int, int]]:
    """Query and KV heads that divide, up to the group and the count after which every pattern has come once."""
    most = next_multiple(kv_heads, tensor_parallel) + 3 * tensor_parallel
    for kv, size in itertools.product(range(kv_heads, most + 1), range(group, group + tensor_parallel)):
        if kv * size % tensor_parallel == 0 and kv_heads_divide(kv, tensor_parallel):
            yield kv * size, kv


def _heads_fit(sizes: DecoderSizes, heads: tuple[int, int], group: int) -> bool:
    """Whether zeros can be put in their places without parting a quantisation block."""
    query, kv = heads
    block = math.lcm(sizes.block.inputs, sizes.block.outputs)
    chunks = [sizes.query_heads] if query // kv == group else [group, query // kv]
    if kv != sizes.kv_heads and sizes.kv_heads * sizes.head_dim % sizes.block.outputs:
        return False
    return not any(heads_count * sizes.head_dim % block for heads_count in chunks)


def _shards_fit(sizes: DecoderSizes, heads: tuple[int, int], tensor_parallel: int) -> bool:
    query, kv = heads
    attention = query * sizes.head_dim // tensor_parallel
    each = max(1, kv // tensor_parallel) * sizes.head_dim
    return not (attention % sizes.block.inputs or attention % sizes.block.outputs or each % sizes.block.outputs)


def padded(sizes: S, padding: Padding | None) -> S:
    """The sizes with what is appended."""
    return sizes if padding is None else replace(sizes, **vars(padding))


def appended(sizes: DecoderSizes, padding: Padding | None) -> Padding:
    """How much of each is zeros; all 0 without padding."""
    if padding is None:
        return Padding(0, 0, 0, 0)
    return Padding(
        padding.query_heads - sizes.query_heads,
        padding.kv_heads - sizes.kv_heads,
        padding.intermediate_size - sizes.intermediate_size,
        padding.vocab_size - sizes.vocab_size,
    )


def describe_padding(sizes: DecoderSizes, padding: Padding) -> str:
    """E.g. "45/9 heads, 5/1 padded; intermediate size 19008, 64 padded"."""
    zeros, parts = appended(sizes, padding), []
    if zeros.query_heads:
        heads = f"{padding.query_heads}/{padding.kv_heads} heads, {zeros.query_heads}/{zeros.kv_heads} padded"
        parts.append(heads)
    if zeros.intermediate_size:
        parts.append(f"intermediate size {padding.intermediate_size}, {zeros.intermediate_size} padded")
    if zeros.vocab_size:
        parts.append(f"vocabulary {padding.vocab_size}, {zeros.vocab_size} padded")
    return "; ".join(parts)


def next_multiple(value: int, step: int) -> int:
    """The smallest multiple of `step` that is at least `value`."""
    return math.ceil(value / step) * step


def split_layers(layers: int, stages: int) -> tuple[int, ...]:
    """VLLM's split: what does not divide goes to the stages before the last, from the back."""
    each, rest = divmod(layers, stages)
    counts = [each] * stages
    for i in range(2, rest + 2):
        counts[-i] += 1
    return tuple(counts)
