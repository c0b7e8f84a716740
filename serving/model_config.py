"""Reads a language model's shape from its own files: config.json and the headers of its safetensors files."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.errors import MaifsError, Reason
from serving.model_shapes import Block, DecoderSizes, ModelShape, Quantization

_PACKED_BITS = 32


def read_shape(folder: Path) -> ModelShape:
    """The shape of a model in a directory; weights counted from the headers of its safetensors files, if any.

    Raises:
        MaifsError: MODEL_UNUSABLE when config.json is missing, unreadable or describes no dense decoder.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        shape = model_shape(config, str(folder))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{folder / 'config.json'} does not describe a model of a known kind: {type(error).__name__}: {error}.",
            "Dense decoders with grouped-query attention (Llama, Qwen2, Qwen3, Mistral) can be planned.",
        ) from error
    return replace(shape, checkpoint_bytes=checkpoint_bytes(folder))


def checkpoint_bytes(folder: Path) -> int | None:
    """Bytes of all tensors of a directory, from the headers of its safetensors files; None where there are none.

    Raises:
        MaifsError: MODEL_UNUSABLE when a header cannot be read.
    """
    return sum(_tensor_bytes(path) for path in sorted(folder.glob("*.safetensors"))) or None


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
        block=stored_block(table.get("quantization_config") or {}),
        architecture=_architecture(config),
        padding_obstacle=_padding_obstacle(config),
    )


PADDABLE_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""Those for which llm_service.padding has a class."""
_PADDABLE_FORMATS = ("awq", "fp8")


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or [""]
    return str(names[0])


def _padding_obstacle(config: Mapping[str, Any]) -> str:
    """Why zero heads and columns cannot be appended; empty when they can."""
    architecture, settings = _architecture(config), config.get("quantization_config") or {}
    if architecture not in PADDABLE_ARCHITECTURES:
        name = f"the architecture {architecture}" if architecture else "a model whose config.json names no architecture"
        return f"{name} cannot be padded; {', '.join(PADDABLE_ARCHITECTURES)} can"
    if settings and _method(settings) not in _PADDABLE_FORMATS and not _is_compressed_fp8(settings):
        return f"weights stored as {_method(settings) or 'an unnamed format'} cannot be padded; 16-bit, AWQ and FP8 can"
    if _method(settings) == "awq" and stored_block(settings).inputs == 1:
        return "AWQ weights without groups cannot be padded"
    if architecture == "Qwen2ForCausalLM":
        for key in ("dual_chunk_attention_config", "qk_norm", "use_sliding_window"):
            if config.get(key):
                return f"Qwen2 models with {key} cannot be padded"
    return ""


def _count(value: Any) -> int:
    count = int(value)
    if count < 1:
        raise ValueError(f"a size of {count}")
    return count


def stored_block(settings: Mapping[str, Any]) -> Block:
    """The block of config.json's quantization_config.

    FP8: (outputs, inputs) as stated. AWQ and GPTQ pack zero points of neighbouring outputs into a 32-bit word.
    """
    if blocks := settings.get("weight_block_size"):
        outputs, inputs = blocks
        return Block(_count(inputs), _count(outputs))
    group = max(1, int(settings.get("group_size") or settings.get("q_group_size") or 1))
    if _method(settings) not in {"awq", "gptq"}:
        return Block(group)
    return Block(group, max(1, _PACKED_BITS // _count(settings.get("bits") or settings.get("w_bit") or 4)))


def _method(settings: Mapping[str, Any]) -> str:
    return str(settings.get("quant_method", "")).lower()


def model_shape(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape that config.json describes, without the files' exact size.

    Raises:
        KeyError: a size is missing.
        AttributeError, TypeError, ValueError: it is no number, or the model is none that can be planned.
    """
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


def _is_compressed_fp8(settings: Mapping[str, Any]) -> bool:
    """Whether compressed-tensors holds FP8 weights alone, with one scale for a tensor or for each output."""
    groups = list((settings.get("config_groups") or {}).values())
    weights = [group.get("weights") or {} for group in groups]
    return (
        _method(settings) == "compressed-tensors"
        and bool(weights)
        and all((each.get("type"), each.get("num_bits")) == ("float", 8) for each in weights)
        and all(each.get("strategy") in {"tensor", "channel"} for each in weights)
    )


def _stored_format(settings: dict[str, Any]) -> Quantization:
    if _is_compressed_fp8(settings):
        return Quantization.FP8
    known = {"awq": Quantization.AWQ, "fp8": Quantization.FP8}
    if settings and _method(settings) not in known:
        raise ValueError(f"quantisation {_method(settings)!r} is not planned; known are awq and fp8")
    return known[_method(settings)] if settings else Quantization.BF16


_HEADER_LIMIT_BYTES = 256 * 1024 * 1024


def is_cut_short(path: Path) -> bool:
    """Whether a safetensors file ends before the data that its header announces.

    Raises:
        MaifsError: MODEL_UNUSABLE when the header cannot be read.
    """
    start, spans = _spans(path)
    return path.stat().st_size < start + max((end for _, end in spans), default=0)


def _tensor_bytes(path: Path) -> int:
    """Bytes of all tensors of a safetensors file, from its header alone."""
    return sum(end - start for start, end in _spans(path)[1])


def _spans(path: Path) -> tuple[int, list[tuple[int, int]]]:
    """Where a safetensors file's data starts, and where each tensor starts and ends in them.

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
        return 8 + length, [(int(start), int(end)) for start, end in spans]
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{path} is no readable safetensors file: {error}.",
            "Fetch the model's files again; a file of a few hundred bytes is a pointer whose content is missing.",
        ) from error
