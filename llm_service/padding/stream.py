"""Appends zeros to the weights of a decoder as they are read. Pure torch; knows no vLLM.

Names and layouts are those of Hugging Face checkpoints: linear weights are (outputs, inputs); AWQ packs eight
neighbouring outputs into a 32-bit word and stores (inputs, outputs); FP8 keeps one scale for the tensor, for each
output or for each block of (outputs, inputs).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from serving.model_shapes import Block, DecoderSizes
from serving.sharding import Padding


@dataclass(frozen=True)
class Widening:
    """How one dimension grows: chunks of equal size become more, or longer. Counts of unpacked numbers."""

    chunks: int
    size: int
    wide_chunks: int
    wide_size: int

    def apply(self, tensor: torch.Tensor, dim: int, unit: int, fill: float = 0.0) -> torch.Tensor:
        """A copy with the new places filled; the tensor itself where there are none.

        Args:
            tensor: any dtype.
            dim: dimension that grows.
            unit: numbers that one element along `dim` stands for (packed word, group or block).
            fill: value of the new elements.

        Raises:
            ValueError: the dimension has another size, or a chunk is no whole number of units.
        """
        if (self.chunks, self.size) == (self.wide_chunks, self.wide_size):
            return tensor
        own, wide = self._elements(unit)
        if tensor.shape[dim] != math.prod(own):
            raise ValueError(f"dimension {dim} of shape {tuple(tensor.shape)} is not {math.prod(own)}")
        before, after = tensor.shape[:dim], tensor.shape[dim + 1 :]
        source = tensor.reshape(*before, *own, *after)
        shape = (*before, *wide, *after)
        target = source.new_zeros(shape) if fill == 0 else source.new_full(shape, fill)
        target.narrow(dim, 0, own[0]).narrow(dim + 1, 0, own[1]).copy_(source)
        return target.flatten(dim, dim + 1)

    def _elements(self, unit: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Chunks and their size before and after; chunks that keep their size are one, since they stay neighbours."""
        own, wide = (self.chunks, self.size), (self.wide_chunks, self.wide_size)
        if self.size == self.wide_size:
            own, wide = (1, self.chunks * self.size), (1, self.wide_chunks * self.wide_size)
        if own[1] % unit or wide[1] % unit:
            raise ValueError(f"{own[1]} and {wide[1]} are not whole units of {unit}")
        return (own[0], own[1] // unit), (wide[0], wide[1] // unit)


@dataclass(frozen=True)
class _Layout:
    """Where a tensor of a linear layer keeps outputs and inputs, and how many each element stands for."""

    outputs_dim: int
    inputs_dim: int
    outputs_unit: int = 1
    inputs_unit: int = 1
    fill: float = 0.0


class WeightPadder:
    """Pads a checkpoint's tensors, one at a time.

    Args:
        sizes: of the files, with their quantisation block.
        padding: the sizes to reach.
    """

    def __init__(self, sizes: DecoderSizes, padding: Padding) -> None:
        d, block = sizes.head_dim, sizes.block
        group, wide_group = sizes.query_heads // sizes.kv_heads, padding.query_heads // padding.kv_heads
        query = Widening(sizes.kv_heads, group * d, padding.kv_heads, wide_group * d)
        kv = Widening(sizes.kv_heads, d, padding.kv_heads, d)
        inner = Widening(sizes.intermediate_size, 1, padding.intermediate_size, 1)
        self._outputs = {"q_proj": query, "k_proj": kv, "v_proj": kv, "gate_proj": inner, "up_proj": inner}
        self._inputs = {"o_proj": query, "down_proj": inner}
        self._layouts = _layouts(block)

    def pad_all(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """The stream of (name, tensor) with every tensor padded."""
        for name, tensor in weights:
            yield name, self.pad(name, tensor)

    def pad(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """One tensor; returned as it is where no dimension of it grows.

        Raises:
            ValueError: a tensor of a padded layer that is of an unknown kind or an unexpected shape.
        """
        module, _, kind = name.rpartition(".")
        layer = module.rpartition(".")[2]
        outputs, inputs = self._outputs.get(layer), self._inputs.get(layer)
        if "." not in module or (outputs is None and inputs is None):
            return tensor
        if (kind in _PER_TENSOR and tensor.numel() == 1) or (kind in _PER_OUTPUT and outputs is None):
            return tensor
        layout = self._layouts.get(kind)
        if layout is None:
            raise ValueError(f"{name} is of a kind that cannot be padded")
        try:
            if outputs is not None:
                return outputs.apply(tensor, layout.outputs_dim, layout.outputs_unit, layout.fill)
            assert inputs is not None
            return inputs.apply(tensor, layout.inputs_dim, layout.inputs_unit, layout.fill)
        except ValueError as error:
            raise ValueError(f"{name} cannot be padded: {error}") from error


_PER_TENSOR = ("weight_scale", "input_scale", "k_scale", "v_scale")
_PER_OUTPUT = ("bias", "weight_scale")


def _layouts(block: Block) -> dict[str, _Layout]:
    """By the last part of a tensor's name."""
    return {
        "weight": _Layout(0, 1),
        "bias": _Layout(0, 1),
        # One, not zero: kernels may take a scale's logarithm.
        "weight_scale": _Layout(0, 1, fill=1.0),
        "weight_scale_inv": _Layout(0, 1, block.outputs, block.inputs, fill=1.0),
        "qweight": _Layout(1, 0, block.outputs),
        "qzeros": _Layout(1, 0, block.outputs, block.inputs),
        "scales": _Layout(1, 0, 1, block.inputs),
    }
