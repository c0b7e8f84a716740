"""Tiny models with random weights: a vision-language model and LoRA adapters. They talk nonsense, but repeatably."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.model import prepared_model

_IMAGE_SIDE_PX, _PATCH_PX, _SHUFFLE = 32, 8, 2
_HIDDEN = 64
IMAGE_TOKENS_COUNT = (_IMAGE_SIDE_PX // _PATCH_PX // _SHUFFLE) ** 2
"""Tokens of one tile; a picture is one tile for the whole and, when it is larger, one for each part."""
_CHAT_TEMPLATE = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}\
{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""


def make_vision_model(folder: Path) -> Path:
    """A vision-language model of the Idefics3 architecture with the tokenizer of the small model, 7 MB."""
    from transformers import (
        AutoTokenizer,
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessorPil,
        Idefics3Processor,
        LlamaConfig,
    )

    tokenizer = AutoTokenizer.from_pretrained(prepared_model())
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>", *tiles]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * _IMAGE_SIDE_PX}, max_image_size={"longest_edge": _IMAGE_SIDE_PX}
    )
    processor = Idefics3Processor(
        image_processor=images, tokenizer=tokenizer, image_seq_len=IMAGE_TOKENS_COUNT, chat_template=_CHAT_TEMPLATE
    )
    text = LlamaConfig(
        hidden_size=_HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        vocab_size=len(tokenizer),
        max_position_embeddings=2048,
    )
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": _IMAGE_SIDE_PX,
        "patch_size": _PATCH_PX,
    }
    config = Idefics3Config(
        vision_config=vision,
        text_config=text,
        scale_factor=_SHUFFLE,
        image_token_id=tokenizer.get_vocab()["<image>"],
    )
    torch.manual_seed(0)
    model: Any = Idefics3ForConditionalGeneration(config)  # type: ignore[no-untyped-call]
    model.bfloat16().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, seed: int, prefix: str = "base_model.model.model.text_model.layers") -> Path:
    """A LoRA adapter of rank 8 for the vision-language model's text layers, strong enough to change its words."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    rank = 8
    weights = {}
    for layer in range(2):
        for name, outputs in (("q_proj", 64), ("v_proj", 32)):
            module = f"{prefix}.{layer}.self_attn.{name}"
            weights[f"{module}.lora_A.weight"] = torch.randn(rank, _HIDDEN, generator=generator)
            weights[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    save_file(weights, folder / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": 16,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
