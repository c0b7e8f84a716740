"""Shapes of decoder-only language models: the numbers that decide how they split and what they weigh."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum


class Quantization(StrEnum):
    """How the weights of linear layers are stored. Embeddings, output head and norms stay in 16 bits."""

    BF16 = "bf16"
    FP8 = "fp8"
    AWQ = "awq"


_BYTES_16_BIT = 2


@dataclass(frozen=True)
class Block:
    """Quantised weights that are stored together: an FP8 block, or a scale's group by the width of a packed word."""

    inputs: int = 1
    outputs: int = 1


_AWQ_BLOCK = Block(inputs=128, outputs=8)


@dataclass(frozen=True)
class DecoderSizes:
    """The numbers that decide how a dense decoder can be split. Counts; no experts, no latent attention."""

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    block: Block = Block()
    architecture: str = "LlamaForCausalLM"
    """Class name in config.json; empty where it names none."""
    padding_obstacle: str = ""
    """Why zero heads and columns cannot be appended to this model; empty when they can."""


@dataclass(frozen=True)
class ModelShape(DecoderSizes):
    """A decoder with what its bytes depend on."""

    name: str = field(kw_only=True)
    hidden_size: int = field(kw_only=True)
    qkv_bias: bool = False
    qk_norm: bool = False
    tied_embeddings: bool = False
    quantization: Quantization = Quantization.BF16
    """FP8: a block of one weight stands for one scale per output channel."""
    checkpoint_bytes: int | None = None
    """Exact bytes of all tensors where the files were at hand."""

    @property
    def embedding_parameters(self) -> int:
        """Parameters of one embedding matrix."""
        return self.vocab_size * self.hidden_size

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(input, output) sizes of a layer's linear weights: q, k, v, o, gate, up, down."""
        q, kv = self.query_heads * self.head_dim, self.kv_heads * self.head_dim
        h, i = self.hidden_size, self.intermediate_size
        return ((h, q), (h, kv), (h, kv), (q, h), (h, i), (h, i), (i, h))

    @property
    def parameters(self) -> int:
        """Parameters, tied embeddings counted once."""
        matrices = sum(rows * columns for rows, columns in self.layer_matrices)
        bias = (self.query_heads + 2 * self.kv_heads) * self.head_dim if self.qkv_bias else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.qk_norm else 0)
        ends = self.embedding_parameters * (1 if self.tied_embeddings else 2) + self.hidden_size
        return self.layers * (matrices + bias + norms) + ends

    def linear_bytes(self, rows: int, columns: int) -> float:
        """Bytes of a linear weight with `rows` inputs and `columns` outputs, scales and zero points included."""
        block = self.block
        if self.quantization is Quantization.AWQ:
            groups = rows / block.inputs if block.inputs > 1 else 1
            return columns * (rows / 2 + groups * (_BYTES_16_BIT + 0.5))
        if self.quantization is Quantization.FP8:
            scales = (rows / block.inputs) * (columns / block.outputs) if block.inputs > 1 else columns
            return rows * columns + 4 * scales
        return float(_BYTES_16_BIT * rows * columns)

    def quantized(self, quantization: Quantization) -> ModelShape:
        """The same model as published or quantised at load in another format."""
        if quantization is self.quantization:
            return self
        block, size = Block(), self.intermediate_size
        if quantization is Quantization.AWQ:
            block, size = _AWQ_BLOCK, _AWQ_INTERMEDIATE.get(size, size)
        return replace(self, quantization=quantization, block=block, intermediate_size=size, checkpoint_bytes=None)


_AWQ_INTERMEDIATE = {29568: 29696}
"""The 72B models' AWQ checkpoints carry 128 more intermediate columns, so that 2, 4 and 8 GPUs get whole groups."""
