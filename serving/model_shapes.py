"""Shapes of decoder-only language models: known ones by name, others from a directory's own files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from serving.errors import MaifsError, Reason


class Quantization(StrEnum):
    """How the weights of linear layers are stored. Embeddings, output head and norms stay in 16 bits."""

    BF16 = "bf16"
    FP8 = "fp8"
    AWQ = "awq"


_BYTES_16_BIT = 2
_PACKED_BITS = 32


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


def _llama(name: str, *numbers: int, head_dim: int | None = None, tied: bool = False) -> ModelShape:
    layers, hidden, queries, kv, intermediate, vocab = numbers
    sizes = DecoderSizes(layers, queries, kv, head_dim or hidden // queries, intermediate, vocab)
    return ModelShape(**vars(sizes), name=name, hidden_size=hidden, tied_embeddings=tied)


def _qwen25(size: str, *numbers: int, tied: bool = False) -> ModelShape:
    return replace(_llama(f"Qwen/Qwen2.5-{size}-Instruct", *numbers, tied=tied), qkv_bias=True)


def _qwen3(size: str, *numbers: int, tied: bool = False) -> ModelShape:
    return replace(_llama(f"Qwen/Qwen3-{size}", *numbers, 151_936, head_dim=128, tied=tied), qk_norm=True)


KNOWN: dict[str, ModelShape] = {
    shape.name: shape
    for shape in (
        _qwen25("0.5B", 24, 896, 14, 2, 4864, 151_936, tied=True),
        _qwen25("1.5B", 28, 1536, 12, 2, 8960, 151_936, tied=True),
        _qwen25("3B", 36, 2048, 16, 2, 11_008, 151_936, tied=True),
        _qwen25("7B", 28, 3584, 28, 4, 18_944, 152_064),
        _qwen25("14B", 48, 5120, 40, 8, 13_824, 152_064),
        _qwen25("32B", 64, 5120, 40, 8, 27_648, 152_064),
        _qwen25("72B", 80, 8192, 64, 8, 29_568, 152_064),
        _qwen3("0.6B", 28, 1024, 16, 8, 3072, tied=True),
        _qwen3("1.7B", 28, 2048, 16, 8, 6144, tied=True),
        _qwen3("4B", 36, 2560, 32, 8, 9728, tied=True),
        _qwen3("8B", 36, 4096, 32, 8, 12_288),
        _qwen3("14B", 40, 5120, 40, 8, 17_408),
        _qwen3("32B", 64, 5120, 64, 8, 25_600),
        _llama("meta-llama/Meta-Llama-3-8B-Instruct", 32, 4096, 32, 8, 14_336, 128_256),
        _llama("meta-llama/Llama-3.1-8B-Instruct", 32, 4096, 32, 8, 14_336, 128_256),
        _llama("meta-llama/Meta-Llama-3-70B-Instruct", 80, 8192, 64, 8, 28_672, 128_256),
        _llama("meta-llama/Llama-3.3-70B-Instruct", 80, 8192, 64, 8, 28_672, 128_256),
        _llama("mistralai/Mistral-7B-Instruct-v0.3", 32, 4096, 32, 8, 14_336, 32_768),
        _llama("HuggingFaceTB/SmolLM2-135M-Instruct", 30, 576, 9, 3, 1536, 49_152, tied=True),
    )
}
"""Shapes as their publishers state them in config.json."""

_SUFFIXES = {"-awq": Quantization.AWQ, "-fp8": Quantization.FP8, "-fp8-dynamic": Quantization.FP8}
_QWEN_FP8_BLOCK = Block(128, 128)


def find_shape(model: str) -> ModelShape:
    """The shape of a model.

    Args:
        model: a directory with config.json, or a name on the model hub, with or without its owner, also with the
            suffix -AWQ or -FP8.

    Raises:
        MaifsError: MODEL_UNUSABLE when it is neither, or when the directory holds no dense decoder.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return read_shape(folder)
    wanted = model.lower()
    for suffix, quantization in _SUFFIXES.items():
        base = _by_name(wanted.removesuffix(suffix)) if wanted.endswith(suffix) else None
        if base:
            shape = replace(base.quantized(quantization), name=base.name + model[-len(suffix) :])
            is_blockwise = quantization is Quantization.FP8 and base.name.startswith("Qwen/Qwen3")
            return replace(shape, block=_QWEN_FP8_BLOCK) if is_blockwise else shape
    found = _by_name(wanted)
    if found:
        return found
    raise MaifsError(
        Reason.MODEL_UNUSABLE,
        f"The shape of the model {model!r} is not known, and it is no directory.",
        "Give a directory with its config.json, or one of: " + ", ".join(sorted(KNOWN)) + " (also with -AWQ or -FP8).",
    )


def _by_name(wanted: str) -> ModelShape | None:
    for name, shape in KNOWN.items():
        if wanted in {name.lower(), name.lower().partition("/")[2]}:
            return shape
    return None


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model in a directory; weights counted from the headers of its safetensors files, if any.

    Raises:
        MaifsError: MODEL_UNUSABLE when config.json is missing, unreadable or describes no dense decoder.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        shape = _from_config(config, str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{folder / 'config.json'} does not describe a model of a known kind: {type(error).__name__}: {error}.",
            "Dense decoders with grouped-query attention (Llama, Qwen2, Qwen3, Mistral) can be planned.",
        ) from error
    sizes = [_tensor_bytes(path) for path in sorted(folder.glob("*.safetensors"))]
    return replace(shape, checkpoint_bytes=sum(sizes) or None)


def decoder_sizes(config: Mapping[str, Any]) -> DecoderSizes:
    """Reads config.json, whatever format its weights are stored in; of a model with more than text, the text part.

    Raises:
        KeyError: a size is missing.
        AttributeError, TypeError, ValueError: it is no number, or the model is no dense decoder.
    """
    table = {**config, **(config.get("text_config") or {})}
    if any(key in table for key in ("num_experts", "num_local_experts", "n_routed_experts", "kv_lora_rank")):
        raise ValueError("mixtures of experts and latent attention do not split by these sizes")
    heads = _count(table["num_attention_heads"])
    return DecoderSizes(
        layers=_count(table["num_hidden_layers"]),
        query_heads=heads,
        kv_heads=_count(table.get("num_key_value_heads") or heads),
        head_dim=_count(table.get("head_dim") or int(table["hidden_size"]) // heads),
        intermediate_size=_count(table["intermediate_size"]),
        vocab_size=_count(table["vocab_size"]),
        block=_stored_block(table.get("quantization_config") or {}),
    )


def _count(value: Any) -> int:
    count = int(value)
    if count < 1:
        raise ValueError(f"a size of {count}")
    return count


def _stored_block(settings: dict[str, Any]) -> Block:
    """FP8: (outputs, inputs) as stated. AWQ and GPTQ pack zero points of neighbouring outputs into a 32-bit word."""
    if blocks := settings.get("weight_block_size"):
        outputs, inputs = blocks
        return Block(_count(inputs), _count(outputs))
    group = max(1, int(settings.get("group_size") or settings.get("q_group_size") or 1))
    if _method(settings) not in {"awq", "gptq"}:
        return Block(group)
    return Block(group, max(1, _PACKED_BITS // _count(settings.get("bits") or settings.get("w_bit") or 4)))


def _method(settings: dict[str, Any]) -> str:
    return str(settings.get("quant_method", "")).lower()


def _from_config(config: dict[str, Any], name: str) -> ModelShape:
    if config.get("text_config"):
        raise ValueError("models with more than text are not planned")
    kind = str(config.get("model_type", ""))
    return ModelShape(
        **vars(decoder_sizes(config)),
        name=name,
        hidden_size=_count(config["hidden_size"]),
        qkv_bias=bool(config.get("attention_bias") or config.get("qkv_bias") or kind == "qwen2"),
        qk_norm=kind == "qwen3",
        tied_embeddings=bool(config.get("tie_word_embeddings", False)),
        quantization=_stored_format(config.get("quantization_config") or {}),
    )


def _stored_format(settings: dict[str, Any]) -> Quantization:
    known = {"awq": Quantization.AWQ, "fp8": Quantization.FP8}
    if settings and _method(settings) not in known:
        raise ValueError(f"quantisation {_method(settings)!r} is not planned; known are awq and fp8")
    return known[_method(settings)] if settings else Quantization.BF16


_HEADER_LIMIT_BYTES = 256 * 1024 * 1024


def _tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a safetensors file, from its header alone.

    Raises:
        MaifsError: MODEL_UNUSABLE when the header cannot be read.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _HEADER_LIMIT_BYTES:
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        spans = [entry["data_offsets"] for key, entry in header.items() if key != "__metadata__"]
        return sum(int(end) - int(start) for start, end in spans)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{path} is no readable safetensors file: {error}.",
            "Fetch the model's files again; a file of a few hundred bytes is a pointer whose content is missing.",
        ) from error
