"""The rules of a layout, for the shapes of published models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from llm_service.config import LlmConfig
from llm_service.preflight import Layout, ModelShape, check_layout, layout_faults, nearest_layouts
from serving.errors import MaifsError, Reason

QWEN_32B = ModelShape(64, 40, 8, 128, 27648, 152064)
QWEN_7B = ModelShape(28, 28, 4, 128, 18944, 152064)
LLAMA_8B = ModelShape(32, 32, 8, 128, 14336, 128256)
SMOLLM = ModelShape(30, 9, 3, 64, 1536, 49152)


@pytest.mark.parametrize(
    ("shape", "running"),
    [
        (QWEN_32B, {1, 2, 4, 8}),
        (QWEN_7B, {1, 2, 4}),
        (LLAMA_8B, {1, 2, 4, 8}),
        (SMOLLM, {1, 3}),
        (replace(QWEN_32B, quantization_group_size=128), {1, 2, 4, 8}),
        (replace(QWEN_7B, quantization_group_size=128), {1, 2, 4}),
    ],
)
def test_tensor_parallel_sizes_that_run(shape: ModelShape, running: set[int]) -> None:
    assert {tp for tp in range(1, 9) if not layout_faults(shape, Layout(tp, 1))} == running


def test_refusal_names_every_rule_with_numbers() -> None:
    assert layout_faults(QWEN_7B, Layout(3, 1)) == [
        "28 attention heads do not divide by 3",
        "4 KV heads neither divide by 3 nor divide 3",
        "the intermediate size 18944 does not divide by 3",
    ]


def test_kv_heads_may_be_repeated_over_more_ranks() -> None:
    assert layout_faults(ModelShape(2, 16, 2, 64, 1024, 64), Layout(8, 1)) == []
    assert any("KV heads" in fault for fault in layout_faults(ModelShape(2, 12, 4, 64, 1536, 192), Layout(6, 1)))


def test_vocabulary_counts_with_its_padding() -> None:
    shape = ModelShape(2, 6, 3, 64, 1536, 49000)
    assert layout_faults(shape, Layout(3, 1)) == ["the vocabulary of 49000, padded to 49024, does not divide by 3"]


def test_shards_hold_whole_groups_and_blocks() -> None:
    grouped = ModelShape(2, 6, 6, 64, 1152, 384, quantization_group_size=128)
    assert layout_faults(grouped, Layout(2, 1)) == [
        "the attention output of each rank, 192, is not whole groups of 128",
        "the intermediate size of each rank, 576, is not whole groups of 128",
    ]
    blocked = replace(grouped, quantization_group_size=0, block_sizes=(128, 128))
    assert len(layout_faults(blocked, Layout(2, 1))) == 4
    assert layout_faults(blocked, Layout(1, 2)) == []


def test_nearest_layouts_use_no_more_devices_than_wanted() -> None:
    assert nearest_layouts(QWEN_32B, Layout(3, 1)) == [Layout(1, 3), Layout(2, 1), Layout(1, 2)]
    assert nearest_layouts(SMOLLM, Layout(2, 1)) == [Layout(1, 2), Layout(1, 1), Layout(3, 1)]


def test_models_of_another_kind_are_left_to_the_engine() -> None:
    assert ModelShape.from_config({"num_attention_heads": 8}) is None
    assert ModelShape.from_config({"num_experts": 4}) is None


def test_directory_is_refused_before_the_engine_starts(tmp_path: Path) -> None:
    sizes = {
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "vocab_size": 152064,
    }
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    config = replace(LlmConfig(), model=str(tmp_path), tensor_parallel_size=3)
    with pytest.raises(MaifsError, match=r"40 attention heads.*8 KV heads.*pipeline_parallel_size = 3") as caught:
        check_layout(config)
    assert caught.value.reason is Reason.MODEL_UNUSABLE
    check_layout(replace(config, tensor_parallel_size=2))
