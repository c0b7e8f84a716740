"""Small models with random weights and no tokenizer, one for each architecture that can be padded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

AWQ_GROUP, FP8_BLOCK = 32, 32
SIZES: dict[str, Any] = {
    "hidden_size": 640,
    "num_attention_heads": 10,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 800,
    "vocab_size": 1000,
    "num_hidden_layers": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.08,
    "tie_word_embeddings": False,
}
"""Nothing here divides by 3: neither heads, nor the intermediate size, nor the vocabulary."""
ARCHITECTURES = ("Llama", "Mistral", "Qwen2", "Qwen3")


def make_random_model(folder: Path, architecture: str, **changes: Any) -> Path:
    """A model in float32 with random weights, biases and norms.

    Args:
        folder: made.
        architecture: "Llama", "Mistral", "Qwen2" or "Qwen3".
        changes: to SIZES, and other fields of transformers' configuration.
    """
    build(architecture, **changes).save_pretrained(folder)
    return folder


def build(architecture: str, overrides: Mapping[str, Any] | None = None, **changes: Any) -> Any:
    """The transformers model, in float32 on the CPU.

    Args:
        architecture: see make_random_model.
        overrides: set in the finished configuration, which would refuse them while it is made.
        changes: see make_random_model.
    """
    import transformers

    settings = SIZES | {"attn_implementation": "eager"} | changes
    if architecture == "Llama":
        settings = {"attention_bias": True, "mlp_bias": True} | settings
    config = getattr(transformers, f"{architecture}Config")(**settings)
    config.update(dict(overrides or {}))
    torch.manual_seed(7)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.float().eval()


def to_awq(source: Path, folder: Path) -> Path:
    """The model with random 4-bit weights in AWQ's layout, in place of its linear ones; scales as small as theirs."""
    tensors: dict[str, torch.Tensor] = {}
    generator = torch.Generator().manual_seed(3)
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= awq_tensors(name.removesuffix("weight"), tensor.shape[0], tensor.shape[1], generator)
        else:
            tensors[name] = tensor.half()
    settings = {"quant_method": "awq", "bits": 4, "group_size": AWQ_GROUP, "zero_point": True, "version": "gemm"}
    return _write(source, folder, tensors, settings, "float16")


def awq_tensors(prefix: str, outputs: int, inputs: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """qweight, qzeros and scales of one linear layer."""
    words = 2**31 - 1

    def packed(rows: int) -> torch.Tensor:
        return torch.randint(-words, words, (rows, outputs // 8), dtype=torch.int32, generator=generator)

    groups = inputs // AWQ_GROUP
    scales = (torch.rand(groups, outputs, generator=generator) + 0.5) * 0.01
    return {f"{prefix}qweight": packed(inputs), f"{prefix}qzeros": packed(groups), f"{prefix}scales": scales.half()}


def to_fp8(source: Path, folder: Path) -> Path:
    """The model with its linear weights as FP8 blocks."""
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            tensors |= fp8_tensors(name, tensor)
        else:
            tensors[name] = tensor.bfloat16()
    block = [FP8_BLOCK, FP8_BLOCK]
    settings = {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": block}
    return _write(source, folder, tensors, settings, "bfloat16")


def fp8_tensors(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Weight and inverse scales of one linear layer, one scale a block."""
    blocks = weight.reshape(weight.shape[0] // FP8_BLOCK, FP8_BLOCK, weight.shape[1] // FP8_BLOCK, FP8_BLOCK)
    scale = blocks.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    quantised = (blocks / scale[:, None, :, None]).reshape(weight.shape).to(torch.float8_e4m3fn)
    return {name: quantised, f"{name}_scale_inv": scale}


def _write(source: Path, folder: Path, tensors: dict[str, Any], settings: dict[str, Any], dtype: str) -> Path:
    folder.mkdir()
    config = json.loads((source / "config.json").read_text())
    config |= {"quantization_config": settings, "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder
