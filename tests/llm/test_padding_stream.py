"""A padded model is the same function: against transformers, layer by layer, for every architecture and format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llm_service.padding import PADDED_CLASSES, config_overrides
from llm_service.padding.stream import WeightPadder, Widening
from serving.model_config import PADDABLE_ARCHITECTURES, decoder_sizes
from serving.model_shapes import Block, DecoderSizes
from serving.sharding import Padding, check
from tests.llm.random_models import ARCHITECTURES, AWQ_GROUP, FP8_BLOCK, SIZES, awq_tensors, build, fp8_tensors

_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Place of each of eight outputs in a word, from the lowest bits."""
TOKENS = torch.arange(3, 40)[None]


def plan(sizes: DecoderSizes, tensor_parallel: int) -> Padding:
    verdict = check(sizes, tensor_parallel)
    assert verdict.faults == ()
    assert verdict.padding is not None
    return verdict.padding


def padded_twin(architecture: str, tensor_parallel: int, **changes: Any) -> tuple[Any, Any]:
    """A transformers model and its padded twin."""
    model = build(architecture, **changes)
    sizes = decoder_sizes(model.config.to_dict() | {"architectures": [f"{architecture}ForCausalLM"]})
    padding = plan(sizes, tensor_parallel)
    wide = {
        "num_attention_heads": padding.query_heads,
        "num_key_value_heads": padding.kv_heads,
        "intermediate_size": padding.intermediate_size,
    }
    twin = build(architecture, wide, **changes)
    weights = dict(WeightPadder(sizes, padding).pad_all(model.state_dict().items()))
    twin.load_state_dict(weights, strict=True)
    return model, twin


@pytest.mark.parametrize("tensor_parallel", [3, 4], ids=["whole KV groups", "longer KV groups"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_layer_of_a_padded_model_gives_the_same_numbers(architecture: str, tensor_parallel: int) -> None:
    model, twin = padded_twin(architecture, tensor_parallel)
    assert twin.config.num_attention_heads > model.config.num_attention_heads
    with torch.no_grad():
        expected, found = (m(TOKENS, output_hidden_states=True) for m in (model, twin))
    assert len(expected.hidden_states) == SIZES["num_hidden_layers"] + 1
    for one, other in zip(
        (*expected.hidden_states, expected.logits), (*found.hidden_states, found.logits), strict=True
    ):
        assert one.std() > 0.01, "the layers do something"
        torch.testing.assert_close(other, one, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_difference_is_rounding_alone(architecture: str) -> None:
    model, twin = (m.double() for m in padded_twin(architecture, 3))
    with torch.no_grad():
        torch.testing.assert_close(twin(TOKENS).logits, model(TOKENS).logits, rtol=1e-12, atol=1e-12)


LAYERS = {
    "q_proj": (640, 640),
    "k_proj": (128, 640),
    "v_proj": (128, 640),
    "o_proj": (640, 640),
    "gate_proj": (800, 640),
    "up_proj": (800, 640),
    "down_proj": (640, 800),
}
"""(outputs, inputs) of SIZES."""


def stored(block: Block) -> DecoderSizes:
    return DecoderSizes(2, 10, 2, 64, 800, 1000, block)


def widened(padder: WeightPadder, layer: str, weight: torch.Tensor) -> torch.Tensor:
    """What padding of the plain weight gives."""
    return padder.pad(f"model.layers.0.x.{layer}.weight", weight)


def from_awq(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """(outputs, inputs) in float32."""
    weight, zeros, scales = (
        next(tensor for name, tensor in tensors.items() if name.endswith(kind))
        for kind in ("qweight", "qzeros", "scales")
    )
    shifts = torch.tensor(_AWQ_ORDER) * 4

    def unpack(words: torch.Tensor) -> torch.Tensor:
        return ((words[..., None] >> shifts) & 15).flatten(1).float()

    rows = torch.arange(weight.shape[0]) // AWQ_GROUP
    return ((unpack(weight) - unpack(zeros)[rows]) * scales.float()[rows]).T


def from_fp8(weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return weight.float() * scale.repeat_interleave(FP8_BLOCK, 0).repeat_interleave(FP8_BLOCK, 1)


@pytest.mark.parametrize("tensor_parallel", [3, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_padded_awq_is_the_padded_weight(layer: str, tensor_parallel: int) -> None:
    sizes = stored(Block(AWQ_GROUP, 8))
    padder = WeightPadder(sizes, plan(sizes, tensor_parallel))
    tensors = awq_tensors(f"model.layers.0.x.{layer}.", *LAYERS[layer], torch.Generator().manual_seed(1))
    found = from_awq(dict(padder.pad_all(tensors.items())))
    assert torch.equal(found, widened(padder, layer, from_awq(tensors)))


@pytest.mark.parametrize("tensor_parallel", [3, 4])
@pytest.mark.parametrize("layer", LAYERS)
def test_padded_fp8_is_the_padded_weight(layer: str, tensor_parallel: int) -> None:
    sizes = stored(Block(FP8_BLOCK, FP8_BLOCK))
    padder = WeightPadder(sizes, plan(sizes, tensor_parallel))
    name = f"model.layers.0.x.{layer}.weight"
    tensors = fp8_tensors(name, torch.randn(LAYERS[layer], generator=torch.Generator().manual_seed(1)))
    wide = dict(padder.pad_all(tensors.items()))
    assert wide[name].dtype == torch.float8_e4m3fn
    assert bool((wide[f"{name}_scale_inv"] > 0).all())
    assert torch.equal(from_fp8(*wide.values()), widened(padder, layer, from_fp8(*tensors.values())))


@pytest.mark.parametrize("layer", LAYERS)
def test_padded_fp8_with_a_scale_for_each_output_is_the_padded_weight(layer: str) -> None:
    sizes = stored(Block())
    padder = WeightPadder(sizes, plan(sizes, 3))
    name = f"model.layers.0.x.{layer}.weight"
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(LAYERS[layer], generator=generator).to(torch.float8_e4m3fn)
    scale = torch.rand(LAYERS[layer][0], 1, generator=generator) + 0.5
    wide = padder.pad(name, weight).float() * padder.pad(f"{name}_scale", scale)
    assert torch.equal(wide, widened(padder, layer, weight.float() * scale))


def test_heads_are_put_after_their_groups() -> None:
    tensor = torch.arange(1, 7)[:, None].float()  # two groups of three
    wide = Widening(2, 3, 3, 4).apply(tensor, 0, 1)
    assert wide[:, 0].tolist() == [1, 2, 3, 0, 4, 5, 6, 0, 0, 0, 0, 0]


def test_what_is_not_padded_is_handed_on_as_it_is() -> None:
    sizes = stored(Block())
    padder = WeightPadder(sizes, plan(sizes, 3))
    for name in (
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.norm.weight",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.0.self_attn.o_proj.bias",
        "model.layers.0.mlp.down_proj.bias",
    ):
        tensor = torch.ones(5)
        assert padder.pad(name, tensor) is tensor
    scale = torch.ones(())
    assert padder.pad("model.layers.0.self_attn.k_proj.weight_scale", scale) is scale


@pytest.mark.parametrize(
    ("name", "shape", "part"),
    [
        ("model.layers.0.self_attn.q_proj.g_idx", (640,), "of a kind that cannot be padded"),
        ("model.layers.0.self_attn.q_proj.weight", (512, 640), "is not 640"),
        ("model.layers.0.mlp.down_proj.weight", (640, 640), "is not 800"),
        ("model.layers.0.self_attn.k_proj.weight_scale", (64, 1), "is not 128"),
    ],
)
def test_an_unexpected_tensor_is_refused_by_its_name(name: str, shape: tuple[int, ...], part: str) -> None:
    sizes = stored(Block())
    padder = WeightPadder(sizes, plan(sizes, 3))
    with pytest.raises(ValueError, match=part) as caught:
        padder.pad(name, torch.ones(shape))
    assert name in str(caught.value)


def test_a_parted_block_is_refused() -> None:
    sizes = replace(stored(Block(128, 128)), kv_heads=10)
    with pytest.raises(ValueError, match="whole units of 128"):
        WeightPadder(sizes, Padding(15, 15, 800, 1000)).pad("a.k_proj.weight_scale_inv", torch.ones(5, 5))


def test_every_architecture_that_is_promised_has_a_class() -> None:
    assert set(PADDABLE_ARCHITECTURES) == set(PADDED_CLASSES)
    overrides = config_overrides(replace(stored(Block()), architecture="Qwen2ForCausalLM"), Padding(15, 3, 960, 1152))
    assert overrides["architectures"] == ["PaddedQwen2ForCausalLM"]
    assert overrides["qkv_bias"]
    assert "vocab_size" not in overrides


def test_files_of_a_saved_model_have_the_names_that_are_padded(tmp_path: Path) -> None:
    build("Qwen2").save_pretrained(tmp_path)
    sizes = decoder_sizes(json.loads((tmp_path / "config.json").read_text()))
    padder = WeightPadder(sizes, plan(sizes, 3))
    grown = {
        name
        for name, tensor in load_file(tmp_path / "model.safetensors").items()
        if padder.pad(name, tensor) is not tensor
    }
    assert len(grown) == 2 * (7 + 3), "seven weights and three biases a layer"
