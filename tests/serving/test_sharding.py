"""The rules and the arithmetic of splitting a model over GPUs."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import MaifsError, Reason
from serving.known_models import KNOWN, find_shape
from serving.model_config import read_shape
from serving.model_memory import decode_tokens_per_s, fit, padded_shape, padding_cost, stage_bytes
from serving.model_shapes import Block, DecoderSizes, Quantization
from serving.sharding import (
    Padding,
    check,
    describe_padding,
    find_faults,
    find_padding,
    kv_heads_divide,
    padded,
    split_layers,
)

GIB = 1024**3
A100_BYTES_PER_S = 1.555e12
QWEN_32B = find_shape("Qwen/Qwen2.5-32B-Instruct")

PUBLISHED_PARAMETERS = {
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "Qwen/Qwen2.5-32B-Instruct": 32_763_876_352,
    "Qwen/Qwen2.5-72B-Instruct": 72_706_203_648,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "meta-llama/Meta-Llama-3-70B-Instruct": 70_553_706_496,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "HuggingFaceTB/SmolLM2-135M-Instruct": 134_515_008,
}


@pytest.mark.parametrize("name", PUBLISHED_PARAMETERS)
def test_a_known_shape_has_as_many_parameters_as_its_checkpoint(name: str) -> None:
    assert KNOWN[name].parameters == PUBLISHED_PARAMETERS[name]


@pytest.mark.parametrize(
    ("quantization", "tp", "pp", "weights_gib", "kv_gib", "count", "rate"),
    [
        ("bf16", 3, 1, (20.66, 20.66), (13.6, 13.6), 36, 71.8),
        ("bf16", 1, 3, (20.0, 20.5), (13.7, 14.3), 41, 24.3),
        ("fp8", 3, 1, (10.81, 10.81), (23.4, 23.4), 62, 140.1),
        ("awq", 3, 1, (6.08, 6.08), (28.2, 28.2), 75, 258.7),
        ("bf16", 2, 1, (30.5, 30.5), (3.7, 3.7), 7, 48.6),
        ("bf16", 4, 1, (15.3, 15.3), (19.0, 19.0), 75, 97.2),
    ],
)
def test_qwen_32b_on_a100_40gb_agrees_with_the_hand_made_table(
    quantization: str,
    tp: int,
    pp: int,
    weights_gib: tuple[float, float],
    kv_gib: tuple[float, float],
    count: int,
    rate: float,
) -> None:
    shape = QWEN_32B.quantized(Quantization(quantization))
    verdict = check(shape, tp, pp)
    stages = stage_bytes(padded_shape(shape, verdict.padding), tp, pp)
    found = fit(stages, 39.4 * GIB * 0.92 - 2 * GIB, 4096)
    weights, kv = found.weights_bytes, found.kv_bytes
    assert verdict.faults == ()
    assert (min(weights) / GIB, max(weights) / GIB) == pytest.approx(weights_gib, rel=0.01)
    assert (min(kv) / GIB, max(kv) / GIB) == pytest.approx(kv_gib, abs=0.06)
    assert (found.sequences, found.fault) == (count, "")
    assert decode_tokens_per_s(stages, A100_BYTES_PER_S) == pytest.approx(rate, rel=0.005)


def test_tensor_parallel_3_of_qwen_32b_needs_45_and_9_heads() -> None:
    assert check(QWEN_32B, 3).padding == Padding(45, 9, 27_648, 152_064)
    assert check(QWEN_32B, 2).padding is None
    unpadded = check(QWEN_32B, 3, may_pad=False)
    assert unpadded.padding is None
    assert unpadded.faults[0] == "40 attention heads do not divide by 3"


def test_padding_costs_what_the_heads_cost() -> None:
    padding = Padding(45, 9, 27_648, 152_064)
    wide = padded(QWEN_32B, padding)
    assert wide.parameters / QWEN_32B.parameters == pytest.approx(1.0154, abs=2e-4)
    kv = stage_bytes(wide, 1)[0].kv_per_token / stage_bytes(QWEN_32B, 1)[0].kv_per_token
    assert kv == pytest.approx(1.125)
    assert stage_bytes(QWEN_32B, 1)[0].kv_per_token == 262_144
    assert str(padding_cost(QWEN_32B, padding, 3)) == "+1.5 % weights, +12.5 % KV"
    assert describe_padding(QWEN_32B, padding) == "45/9 heads, 5/1 padded"


@pytest.mark.parametrize(
    ("name", "tp", "text"),
    [
        ("Qwen2.5-7B-Instruct", 3, "42/6 heads, 14/2 padded; intermediate size 19008, 64 padded"),
        ("Meta-Llama-3-8B-Instruct", 3, "36/9 heads, 4/1 padded; intermediate size 14400, 64 padded"),
        ("Qwen3-8B", 3, "36/9 heads, 4/1 padded; vocabulary 152064, 128 padded"),
        (
            "Qwen3-32B-FP8",
            3,
            "72/9 heads, 8/1 padded; intermediate size 25728, 128 padded; vocabulary 152064, 128 padded",
        ),
        ("Qwen2.5-7B-Instruct-AWQ", 3, "42/6 heads, 14/2 padded; intermediate size 19200, 256 padded"),
        ("Qwen2.5-0.5B-Instruct", 4, "16/2 heads, 2/0 padded"),
        ("SmolLM2-135M-Instruct", 2, "12/4 heads, 3/1 padded"),
        ("Qwen2.5-14B-Instruct-AWQ", 8, "intermediate size 14336, 512 padded"),
    ],
)
def test_what_is_appended(name: str, tp: int, text: str) -> None:
    shape = find_shape(name)
    verdict = check(shape, tp)
    assert verdict.faults == ()
    assert verdict.padding is not None
    assert describe_padding(shape, verdict.padding) == text


@given(
    kv=st.integers(1, 64),
    group=st.integers(1, 16),
    tp=st.integers(1, 16),
    inner=st.integers(1, 300),
    vocab=st.integers(1, 200_000),
    block=st.sampled_from([Block(), Block(128, 8), Block(128, 128), Block(32, 8)]),
    head_dim=st.sampled_from([64, 128]),
)
def test_padding_never_shrinks_and_always_runs(
    kv: int, group: int, tp: int, inner: int, vocab: int, block: Block, head_dim: int
) -> None:
    sizes = DecoderSizes(2, kv * group, kv, head_dim, inner * block.inputs, vocab, block)
    padding = find_padding(sizes, tp)
    if padding is None:
        assert block != Block()
        return
    assert find_faults(padded(sizes, padding), tp) == []
    assert padding.query_heads >= kv * group
    assert padding.kv_heads >= kv
    assert kv_heads_divide(padding.kv_heads, tp)
    assert padding.query_heads // padding.kv_heads >= group
    assert padding.intermediate_size >= sizes.intermediate_size
    assert padding.vocab_size >= vocab
    if not find_faults(sizes, tp):
        assert padding == Padding(kv * group, kv, sizes.intermediate_size, vocab)


def test_zero_heads_leave_attention_as_it_was() -> None:
    rng = np.random.default_rng(5)
    tokens, hidden, d, q, kv = 7, 40, 8, 10, 2
    x = rng.normal(size=(tokens, hidden))
    wq, wk, wv = (rng.normal(size=(n * d, hidden)) for n in (q, kv, kv))
    wo = rng.normal(size=(hidden, q * d))
    padding = find_padding(DecoderSizes(1, q, kv, d, 192, 192), 3)
    assert padding == Padding(15, 3, 192, 192)
    more_q, more_kv = (padding.query_heads - q) * d, (padding.kv_heads - kv) * d
    wide = attention(
        x,
        np.pad(wq, ((0, more_q), (0, 0))),
        np.pad(wk, ((0, more_kv), (0, 0))),
        np.pad(wv, ((0, more_kv), (0, 0))),
        np.pad(wo, ((0, 0), (0, more_q))),
        d,
    )
    assert np.allclose(wide, attention(x, wq, wk, wv, wo, d), atol=1e-12)


def attention(x: np.ndarray, wq: np.ndarray, wk: np.ndarray, wv: np.ndarray, wo: np.ndarray, d: int) -> np.ndarray:
    """Grouped-query attention of one sequence, without mask and positions."""
    q, k, v = ((x @ w.T).reshape(len(x), -1, d).transpose(1, 0, 2) for w in (wq, wk, wv))
    groups = len(q) // len(k)
    k, v = (np.repeat(part, groups, axis=0) for part in (k, v))
    scores = np.exp(q @ k.transpose(0, 2, 1) / np.sqrt(d))
    mixed = scores / scores.sum(axis=-1, keepdims=True) @ v
    return np.asarray(mixed.transpose(1, 0, 2).reshape(len(x), -1) @ wo.T)


def test_a_model_that_cannot_be_padded_is_refused_with_the_reason() -> None:
    other = replace(QWEN_32B, padding_obstacle="weights stored as gptq cannot be padded")
    assert check(other, 3).faults == (
        "40 attention heads do not divide by 3",
        "8 KV heads neither divide by 3 nor divide 3",
        "weights stored as gptq cannot be padded",
    )
    assert check(other, 2).faults == ()


def test_blocks_that_no_padding_makes_whole_are_named() -> None:
    parted = DecoderSizes(2, 7, 7, 64, 1024, 192, Block(128, 128))  # 448 rows are three blocks and a half
    assert check(parted, 7).faults == (
        "the intermediate size 1024 does not divide by 7",
        "the vocabulary of 192, padded to 192, does not divide by 7",
    )
    verdict = check(replace(parted, intermediate_size=896, vocab_size=448), 7)
    assert verdict.padding is None
    assert "the attention output of each rank, 64, is not whole quantisation blocks of 128" in verdict.faults


def test_published_awq_of_the_72b_model_splits_by_8_and_its_own_size_would_not() -> None:
    published = find_shape("Qwen/Qwen2.5-72B-Instruct-AWQ")
    assert published.intermediate_size == 29_696
    assert check(published, 8).faults == ()


def test_few_kv_heads_are_repeated_on_more_gpus() -> None:
    shape = find_shape("Qwen2.5-7B-Instruct")
    padding = check(shape, 28).padding
    assert padding is not None
    assert (padding.query_heads, padding.kv_heads) == (28, 4)
    assert stage_bytes(shape, 28)[0].kv_per_token == stage_bytes(shape, 4)[0].kv_per_token


def test_layers_split_as_vllm_splits_them() -> None:
    assert split_layers(64, 3) == (21, 22, 21)
    assert split_layers(30, 4) == (7, 8, 8, 7)
    assert split_layers(80, 3) == (27, 27, 26)


def test_what_does_not_fit_is_said_with_numbers() -> None:
    stages = stage_bytes(QWEN_32B, 2)
    assert fit(stages, 20 * GIB, 4096).fault == "weights of 30.5 GiB per GPU do not fit into 20.0 GiB"
    assert fit(stages, 31 * GIB, 8192).fault == (
        "0.5 GiB left for the KV cache do not hold one sequence of 8192 tokens"
    )
    assert fit(stages, 20 * GIB, 4096, offload_bytes=20 * GIB).sequences == 18


def test_offload_is_bound_by_the_link() -> None:
    stages = stage_bytes(QWEN_32B, 2)
    without = decode_tokens_per_s(stages, A100_BYTES_PER_S)
    assert decode_tokens_per_s(stages, A100_BYTES_PER_S, 10 * GIB, 25e9) < without / 10


def write_model(folder: Path, **changes: object) -> Path:
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 192,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


def write_tensors(path: Path, size: int) -> None:
    entries = {
        "a": {"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]},
        "__metadata__": {"format": "pt"},
    }
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))


def test_a_directory_s_weights_are_counted_from_its_files(tmp_path: Path) -> None:
    shape = read_shape(write_model(tmp_path))
    write_tensors(tmp_path / "model-1.safetensors", shape.parameters)
    write_tensors(tmp_path / "model-2.safetensors", shape.parameters + 1000)
    exact = find_shape(str(tmp_path))
    assert exact.checkpoint_bytes == 2 * shape.parameters + 1000
    assert stage_bytes(exact, 1)[0].weights == pytest.approx(exact.checkpoint_bytes)
    assert stage_bytes(shape, 1)[0].weights == 2 * shape.parameters


def test_a_stored_quantisation_is_read_from_the_configuration(tmp_path: Path) -> None:
    awq = {"quant_method": "awq", "group_size": 64, "bits": 4}
    shape = read_shape(write_model(tmp_path, quantization_config=awq))
    assert (shape.quantization, shape.block) == (Quantization.AWQ, Block(inputs=64, outputs=8))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_experts": 8},
        {"hidden_size": None},
        {"quantization_config": {"quant_method": "gptq"}},
        {"text_config": {"x": 1}},
    ],
)
def test_a_model_that_cannot_be_planned_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(MaifsError) as caught:
        find_shape(str(write_model(tmp_path, **changes)))
    assert caught.value.reason is Reason.MODEL_UNUSABLE


def test_a_pointer_instead_of_weights_is_refused(tmp_path: Path) -> None:
    (write_model(tmp_path) / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(MaifsError, match="pointer"):
        find_shape(str(tmp_path))


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(MaifsError, match=r"Qwen2\.5-32B"):
        find_shape("nobody/nothing-1B")
