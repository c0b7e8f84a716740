"""The rules of a layout, for the shapes of published models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_service.config import LlmConfig
from llm_service.preflight import Layout, check_layout, judge_layout, nearest_layouts
from serving.errors import MaifsError, Reason
from serving.model_config import decoder_sizes
from serving.model_shapes import Block, DecoderSizes
from serving.sharding import Padding


def layout_faults(sizes: DecoderSizes, layout: Layout) -> list[str]:
    return list(judge_layout(sizes, layout, may_pad=False).faults)


QWEN_32B = DecoderSizes(64, 40, 8, 128, 27648, 152064)
QWEN_7B = DecoderSizes(28, 28, 4, 128, 18944, 152064)
LLAMA_8B = DecoderSizes(32, 32, 8, 128, 14336, 128256)
SMOLLM = DecoderSizes(30, 9, 3, 64, 1536, 49152)


@pytest.mark.parametrize(
    ("shape", "running"),
    [
        (QWEN_32B, {1, 2, 4, 8}),
        (QWEN_7B, {1, 2, 4}),
        (LLAMA_8B, {1, 2, 4, 8}),
        (SMOLLM, {1, 3}),
        (replace(QWEN_32B, block=Block(128, 8)), {1, 2, 4, 8}),
        (replace(QWEN_7B, block=Block(128, 8)), {1, 2, 4}),
    ],
)
def test_tensor_parallel_sizes_that_run(shape: DecoderSizes, running: set[int]) -> None:
    assert {tp for tp in range(1, 9) if not layout_faults(shape, Layout(tp, 1))} == running


def test_refusal_names_every_rule_with_numbers() -> None:
    assert layout_faults(QWEN_7B, Layout(3, 1)) == [
        "28 attention heads do not divide by 3",
        "4 KV heads neither divide by 3 nor divide 3",
        "the intermediate size 18944 does not divide by 3",
    ]


def test_kv_heads_may_be_repeated_over_more_ranks() -> None:
    assert layout_faults(DecoderSizes(2, 16, 2, 64, 1024, 64), Layout(8, 1)) == []
    assert any("KV heads" in fault for fault in layout_faults(DecoderSizes(2, 12, 4, 64, 1536, 192), Layout(6, 1)))


def test_vocabulary_counts_with_its_padding() -> None:
    shape = DecoderSizes(2, 6, 3, 64, 1536, 49000)
    assert layout_faults(shape, Layout(3, 1)) == ["the vocabulary of 49000, padded to 49024, does not divide by 3"]


def test_query_heads_are_a_multiple_of_the_kv_heads() -> None:
    assert layout_faults(DecoderSizes(2, 6, 4, 64, 1536, 192), Layout(1, 1)) == [
        "6 attention heads are no multiple of 4 KV heads"
    ]


def test_shards_hold_whole_groups_and_blocks() -> None:
    grouped = DecoderSizes(2, 6, 6, 64, 1152, 384, Block(128, 8))
    assert layout_faults(grouped, Layout(2, 1)) == [
        "the attention output of each rank, 192, is not whole quantisation blocks of 128",
        "the intermediate size of each rank, 576, is not whole quantisation blocks of 128",
    ]
    assert layout_faults(replace(grouped, block=Block(64, 8)), Layout(2, 1)) == []
    blocked = replace(grouped, block=Block(128, 128))
    assert len(layout_faults(blocked, Layout(2, 1))) == 4
    assert layout_faults(blocked, Layout(1, 2)) == []


def test_nearest_layouts_use_no_more_devices_than_wanted() -> None:
    def unpadded(sizes: DecoderSizes) -> Callable[[Layout], bool]:
        return lambda layout: not layout_faults(sizes, layout)

    assert nearest_layouts(Layout(3, 1), unpadded(QWEN_32B)) == [Layout(1, 3), Layout(2, 1), Layout(1, 2), Layout(1, 1)]
    assert nearest_layouts(Layout(3, 1), unpadded(QWEN_32B), 2) == [Layout(2, 1), Layout(1, 2), Layout(1, 1)]
    assert nearest_layouts(Layout(2, 1), unpadded(SMOLLM)) == [Layout(1, 2), Layout(1, 1), Layout(3, 1), Layout(1, 3)]


CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 64,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "vocab_size": 152064,
}


def directory(folder: Path, table: dict[str, Any], tensor_parallel_size: int, pad_heads: str = "never") -> LlmConfig:
    (folder / "config.json").write_text(json.dumps(table))
    return replace(LlmConfig(), model=str(folder), tensor_parallel_size=tensor_parallel_size, pad_heads=pad_heads)


@pytest.mark.parametrize(
    "table",
    [
        {"num_attention_heads": 8},
        CONFIG | {"num_experts": 4},
        CONFIG | {"num_attention_heads": 0},
        CONFIG | {"quantization_config": "none"},
    ],
)
def test_models_of_another_kind_are_left_to_the_engine(tmp_path: Path, table: dict[str, Any]) -> None:
    check_layout(directory(tmp_path, table, 3))


@pytest.mark.parametrize(
    ("settings", "block"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, Block(128, 8)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, Block(1, 4)),
        ({"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, Block(64, 8)),
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, Block(inputs=128, outputs=64)),
        ({"quant_method": "fp8"}, Block()),
        ({"quant_method": "compressed-tensors"}, Block()),
        ({"quant_method": "hqq", "group_size": 64}, Block(64)),
    ],
)
def test_block_of_a_stored_format(settings: dict[str, Any], block: Block) -> None:
    assert decoder_sizes(CONFIG | {"quantization_config": settings}).block == block


@pytest.mark.parametrize("method", ["gptq", "bitsandbytes"])
def test_formats_that_are_not_planned_are_checked_too(tmp_path: Path, method: str) -> None:
    table = CONFIG | {"intermediate_size": 27712, "quantization_config": {"quant_method": method, "group_size": 128}}
    with pytest.raises(MaifsError, match=r"intermediate size of each rank, 13856, is not whole .* of 128"):
        check_layout(directory(tmp_path, table, 2))


def test_text_part_of_a_larger_model_is_checked(tmp_path: Path) -> None:
    with pytest.raises(MaifsError, match="40 attention heads"):
        check_layout(directory(tmp_path, {"model_type": "large", "text_config": CONFIG}, 3))


def test_directory_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    config = directory(tmp_path, CONFIG, 3)
    with pytest.raises(MaifsError, match=r"40 attention heads.*8 KV heads.*pipeline_parallel_size = 3") as caught:
        check_layout(config)
    assert caught.value.reason is Reason.MODEL_UNUSABLE
    assert 'pad_heads = "auto"' in str(caught.value)
    check_layout(replace(config, tensor_parallel_size=2))


def test_what_does_not_divide_is_padded_by_itself(tmp_path: Path) -> None:
    prepared = check_layout(directory(tmp_path, CONFIG | {"model_type": "qwen2"}, 3, "auto"))
    assert prepared.padding == Padding(45, 9, 27648, 152064)
    assert str(prepared) == "45/9 heads, 5/1 padded, +1.5 % weights, +12.5 % KV"
    assert check_layout(directory(tmp_path, CONFIG, 2, "auto")).padding is None


def compressed(strategy: str, bits: int) -> dict[str, Any]:
    weights = {"type": "float", "num_bits": bits, "strategy": strategy}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": weights}}}


def test_eight_bits_of_compressed_tensors_are_padded_where_a_scale_is_one_output_s(tmp_path: Path) -> None:
    for settings in (compressed("channel", 8), compressed("tensor", 8)):
        table = CONFIG | {"quantization_config": settings}
        prepared = check_layout(directory(tmp_path, table, 3, "auto"))
        assert str(prepared) == "45/9 heads, 5/1 padded, +1.5 % weights, +12.5 % KV"
    for settings in (compressed("group", 8), compressed("channel", 4), {"quant_method": "compressed-tensors"}):
        with pytest.raises(MaifsError, match="stored as compressed-tensors cannot be padded"):
            check_layout(directory(tmp_path, CONFIG | {"quantization_config": settings}, 3, "auto"))


def test_a_known_name_is_checked_without_its_files() -> None:
    prepared = check_layout(replace(LlmConfig(), model="Qwen/Qwen2.5-32B-Instruct", tensor_parallel_size=3))
    assert str(prepared).startswith("45/9 heads")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["GemmaForCausalLM"]}, "the architecture GemmaForCausalLM cannot be padded"),
        ({"architectures": None}, "names no architecture"),
        (
            {"quantization_config": {"quant_method": "gptq", "group_size": 128}},
            "stored as gptq cannot be padded",
        ),
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "AWQ weights without groups"),
        ({"use_sliding_window": True}, "Qwen2 models with use_sliding_window"),
    ],
)
def test_a_model_that_cannot_be_padded_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(MaifsError, match=reason) as caught:
        check_layout(directory(tmp_path, CONFIG | changes, 3, "auto"))
    assert "pipeline_parallel_size = 3" in str(caught.value)
