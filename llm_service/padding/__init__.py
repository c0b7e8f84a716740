"""Zero heads and columns that let vLLM split a model over any number of GPUs: a plugin, loaded in all its processes.

The entry point is in the group `vllm.general_plugins`. No checkpoint is rewritten: the weights are padded on their way
from the files into vLLM's own model classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serving.model_shapes import DecoderSizes
from serving.sharding import Padding

PLUGIN = "maifs_padding"
"""Name of the entry point, as VLLM_PLUGINS lists it."""
STORED_SIZES = "maifs_stored_sizes"
"""Attribute of the model's configuration: query heads, KV heads and intermediate size of the files."""

PADDED_CLASSES = {
    "LlamaForCausalLM": "PaddedLlamaForCausalLM",
    "MistralForCausalLM": "PaddedMistralForCausalLM",
    "Qwen2ForCausalLM": "PaddedQwen2ForCausalLM",
    "Qwen3ForCausalLM": "PaddedQwen3ForCausalLM",
}
"""Class in llm_service.padding.models, and its name in vLLM's registry, by the architecture of config.json."""


def register() -> None:
    """The plugin: makes the padded classes known. They are imported when a model asks for one."""
    from vllm import ModelRegistry

    for name in PADDED_CLASSES.values():
        if name not in ModelRegistry.models:
            ModelRegistry.register_model(name, f"llm_service.padding.models:{name}")


def config_overrides(sizes: DecoderSizes, padding: Padding) -> dict[str, Any]:
    """VLLM's `hf_overrides` for a padded model. `model_type` stays: transformers would refuse the sizes of another.

    The vocabulary is not among them: its padding shows in no size that tokenizer, sampler or grammar see.

    Args:
        sizes: as they are stored, with an architecture of PADDED_CLASSES.
        padding: what vLLM is to see.
    """
    overrides: dict[str, Any] = {
        "architectures": [PADDED_CLASSES[sizes.architecture]],
        "num_attention_heads": padding.query_heads,
        "num_key_value_heads": padding.kv_heads,
        "head_dim": sizes.head_dim,
        "intermediate_size": padding.intermediate_size,
        STORED_SIZES: [sizes.query_heads, sizes.kv_heads, sizes.intermediate_size],
    }
    if sizes.architecture == "Qwen2ForCausalLM":
        # Runs as a Llama, whose attention takes a head size: biases on q, k and v alone.
        overrides |= {"attention_bias": False, "qkv_bias": True, "mlp_bias": False}
    return overrides


def stored_sizes(config: Any) -> Sequence[int] | None:
    """Query heads, KV heads and intermediate size of the files; None where the model is not padded."""
    return getattr(config, STORED_SIZES, None)
