"""Language models whose shape is known by name; others are described by their own files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from serving.errors import MaifsError, Reason
from serving.model_config import read_shape
from serving.model_shapes import Block, DecoderSizes, ModelShape, Quantization


def _llama(name: str, *numbers: int, head_dim: int | None = None, tied: bool = False) -> ModelShape:
    layers, hidden, queries, kv, intermediate, vocab = numbers
    sizes = DecoderSizes(layers, queries, kv, head_dim or hidden // queries, intermediate, vocab)
    return ModelShape(**vars(sizes), name=name, hidden_size=hidden, tied_embeddings=tied)


def _qwen25(size: str, *numbers: int, tied: bool = False) -> ModelShape:
    shape = _llama(f"Qwen/Qwen2.5-{size}-Instruct", *numbers, tied=tied)
    return replace(shape, architecture="Qwen2ForCausalLM", qkv_bias=True)


def _qwen3(size: str, *numbers: int, tied: bool = False) -> ModelShape:
    shape = _llama(f"Qwen/Qwen3-{size}", *numbers, 151_936, head_dim=128, tied=tied)
    return replace(shape, architecture="Qwen3ForCausalLM", qk_norm=True)


def _mistral(name: str, *numbers: int) -> ModelShape:
    return replace(_llama(name, *numbers), architecture="MistralForCausalLM")


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
        _mistral("mistralai/Mistral-7B-Instruct-v0.3", 32, 4096, 32, 8, 14_336, 32_768),
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
    found = known_shape(model)
    if found:
        return found
    raise MaifsError(
        Reason.MODEL_UNUSABLE,
        f"The shape of the model {model!r} is not known, and it is no directory.",
        "Give a directory with its config.json, or one of: " + ", ".join(sorted(KNOWN)) + " (also with -AWQ or -FP8).",
    )


def known_shape(model: str) -> ModelShape | None:
    """The shape of a model of the table, by its name, with or without owner and suffix; None where it is not there."""
    wanted = model.lower()
    for suffix, quantization in _SUFFIXES.items():
        base = _by_name(wanted.removesuffix(suffix)) if wanted.endswith(suffix) else None
        if base:
            shape = replace(base.quantized(quantization), name=base.name + model[-len(suffix) :])
            is_blockwise = quantization is Quantization.FP8 and base.name.startswith("Qwen/Qwen3")
            return replace(shape, block=_QWEN_FP8_BLOCK) if is_blockwise else shape
    return _by_name(wanted)


def _by_name(wanted: str) -> ModelShape | None:
    for name, shape in KNOWN.items():
        if wanted in {name.lower(), name.lower().partition("/")[2]}:
            return shape
    return None
