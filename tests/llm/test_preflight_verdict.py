"""The preflight agrees with vLLM on what splits, and vLLM builds what is padded.

vLLM's verdict comes from its configuration's check and from its own layers, which are built for the first of several
ranks on torch's "meta" device: with all their assertions, without weights and without processes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

import pytest
import torch

from llm_service.padding import PADDED_CLASSES, config_overrides
from serving.known_models import KNOWN
from serving.model_config import model_shape
from serving.model_shapes import Block, ModelShape
from serving.sharding import check
from tests.model import prepared_model

pytestmark = pytest.mark.engine

TENSOR_PARALLEL = range(1, 5)


@dataclass(frozen=True)
class Heads:
    """A shape that no known model has: one number is odd."""

    query: int
    kv: int
    intermediate: int = 1536
    vocab: int = 49_152
    head_dim: int = 64
    architecture: str = "LlamaForCausalLM"


OTHERS = (
    Heads(15, 5, 2560),  # SmolLM2-360M
    Heads(32, 32, 8192),  # SmolLM2-1.7B
    Heads(24, 8, 8192, 128_256, 128),  # Llama-3.2-3B
    Heads(32, 8, 8192, 128_256),  # Llama-3.2-1B
    Heads(128, 8, 53_248, 128_256, 128),  # Llama-3.1-405B
    Heads(32, 4, 5632, 32_000),  # TinyLlama-1.1B
    Heads(32, 32, 11_008, 32_000, 128),  # Llama-2-7B
    Heads(40, 40, 13_824, 32_000, 128),  # Llama-2-13B
    Heads(52, 52, 17_920, 32_000, 128),  # LLaMA-30B
    Heads(56, 8, 20_480, 64_000, 128),  # Yi-34B
    Heads(32, 8, 14_336, 131_072, 128, "MistralForCausalLM"),  # Mistral-Nemo
    Heads(48, 8, 16_384, 32_768, 128, "MistralForCausalLM"),  # Codestral-22B
    Heads(96, 8, 28_672, 32_768, 128, "MistralForCausalLM"),  # Mistral-Large
    Heads(16, 16, 5504, 151_936, 128, "Qwen2ForCausalLM"),  # Qwen1.5-1.8B
    Heads(20, 20, 6912, 151_936, 128, "Qwen2ForCausalLM"),  # Qwen1.5-4B
    Heads(9, 3),
    Heads(6, 3),
    Heads(6, 2),
    Heads(6, 4),
    Heads(12, 1),
    Heads(3, 1),
    Heads(4, 4, 1538),
    Heads(12, 12, 1537),
    Heads(12, 6, 1536, 1000),
    Heads(12, 6, 1536, 192),
    Heads(10, 2, 800, 1000, 64, "Qwen2ForCausalLM"),
    Heads(10, 2, 800, 1000, 64, "Qwen3ForCausalLM"),
    Heads(7, 7, 1792, 32_000),
)
_KINDS = {"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral"}
_KINDS |= {"Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3"}


def config_of(shape: Heads | ModelShape) -> dict[str, Any]:
    """config.json of one layer."""
    if isinstance(shape, ModelShape):
        heads = Heads(
            shape.query_heads,
            shape.kv_heads,
            shape.intermediate_size,
            shape.vocab_size,
            shape.head_dim,
            shape.architecture,
        )
        return config_of(heads) | {"hidden_size": shape.hidden_size, "tie_word_embeddings": shape.tied_embeddings}
    return {
        "architectures": [shape.architecture],
        "model_type": _KINDS[shape.architecture],
        "num_hidden_layers": 1,
        "hidden_size": shape.query * shape.head_dim,
        "num_attention_heads": shape.query,
        "num_key_value_heads": shape.kv,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "dtype": "bfloat16",
    }


CONFIGS = [config_of(shape) for shape in KNOWN.values()] + [config_of(shape) for shape in OTHERS]


@pytest.fixture(name="vllm", scope="module")
def _vllm() -> Iterator[None]:
    """The package, with its models known in this process, which spares a process for each."""
    prepared_model()  # skips where the engine is not installed
    before = dict(os.environ)
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        from vllm import ModelRegistry
        from vllm.plugins import load_general_plugins

        load_general_plugins()
        for name in (*PADDED_CLASSES, *PADDED_CLASSES.values()):
            ModelRegistry.register_model(name, ModelRegistry.models[name].load_model_cls())
        yield
    finally:  # vLLM sets variables of its own
        os.environ.clear()
        os.environ |= before


@contextmanager
def first_rank_of(count: int) -> Iterator[None]:
    """Lets vLLM's layers believe that they are on the first of several tensor parallel ranks."""
    from vllm.distributed import parallel_state

    def group(size: int) -> Any:
        return SimpleNamespace(world_size=size, rank_in_group=0, is_first_rank=True, is_last_rank=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel_state, "_TP", group(count))
        patch.setattr(parallel_state, "_PP", group(1))
        yield


def refusal_of_vllm(folder: Path, table: Mapping[str, Any], tp: int, overrides: Mapping[str, Any]) -> str | None:
    """What vLLM says against a layout; None when it builds it."""
    from vllm.config import ModelConfig, ParallelConfig, VllmConfig, set_current_vllm_config

    (folder / "config.json").write_text(json.dumps(table))
    try:
        model = ModelConfig(
            model=str(folder),
            skip_tokenizer_init=True,
            max_model_len=64,
            hf_overrides=dict(overrides),
            dtype="bfloat16",
        )
        parallel = ParallelConfig(tensor_parallel_size=tp, distributed_executor_backend="mp")
        config = VllmConfig(model_config=model, parallel_config=parallel)
        kind, _ = model.registry.resolve_model_cls(model.architectures, model)
        with set_current_vllm_config(config), first_rank_of(tp), torch.device("meta"):
            kind(vllm_config=config)
    except (ValueError, AssertionError) as error:
        return str(error) or type(error).__name__
    return None


def test_forty_shapes_are_compared() -> None:
    assert len({json.dumps(config) for config in CONFIGS}) >= 40


@pytest.mark.usefixtures("vllm")
def test_preflight_agrees_with_vllm_on_what_splits(tmp_path: Path) -> None:
    verdicts = set()
    for table in CONFIGS:
        shape = model_shape(table, "model")
        for tp in TENSOR_PARALLEL:
            faults = check(shape, tp, may_pad=False).faults
            refusal = refusal_of_vllm(tmp_path, table, tp, {})
            assert bool(faults) == bool(refusal), (table, tp, faults, refusal)
            verdicts.add(bool(faults))
    assert verdicts == {True, False}


@pytest.mark.usefixtures("vllm")
def test_vllm_builds_what_is_padded(tmp_path: Path) -> None:
    count = 0
    for table in CONFIGS:
        shape = model_shape(table, "model")
        for tp in TENSOR_PARALLEL:
            verdict = check(shape, tp)
            if verdict.padding:
                count += 1
                assert refusal_of_vllm(tmp_path, table, tp, config_overrides(shape, verdict.padding)) is None, (
                    table,
                    tp,
                )
    assert count >= 40


Linear: TypeAlias = tuple[int, int, int, list[int]]
"""Inputs and outputs of a linear layer; inputs and merged outputs on one rank."""


def linears(shape: ModelShape, tp: int) -> list[Linear]:
    """q, k and v together; attention output; gate and up together; down."""
    h, q, inner = shape.hidden_size, shape.query_heads * shape.head_dim, shape.intermediate_size
    kv = max(1, shape.kv_heads // tp) * shape.head_dim
    return [
        (h, q + 2 * kv * tp, h, [q // tp, kv, kv]),
        (q, h, q // tp, [h]),
        (h, 2 * inner, h, [inner // tp] * 2),
        (inner, h, inner // tp, [h]),
    ]


def refuses(check_shape: Callable[[Linear], None], shape: ModelShape, tp: int) -> bool:
    try:
        for linear in linears(shape, tp):
            check_shape(linear)
    except ValueError:
        return True
    return False


def divided(block: Block) -> Iterator[tuple[ModelShape, int]]:
    """Shapes stored in blocks, whose sizes divide, with the tensor parallel size."""
    for table in CONFIGS:
        shape = replace(model_shape(table, "model"), block=block)
        for tp in TENSOR_PARALLEL:
            if not check(replace(shape, block=Block()), tp, may_pad=False).faults:
                yield shape, tp


@pytest.mark.usefixtures("vllm")
@pytest.mark.parametrize("group", [32, 64, 128])
def test_preflight_agrees_with_vllm_on_groups_of_4_bits(group: int) -> None:
    """By the rule of the kernel that runs them on GPUs; the one for CPUs builds shards of parted groups."""
    from vllm.distributed.utils import verify_group_size_divides_partition

    def check_shape(linear: Linear) -> None:
        if group < linear[0]:
            verify_group_size_divides_partition(linear[2], group)

    verdicts = []
    for shape, tp in divided(Block(group, 8)):
        if shape.hidden_size % group:
            continue  # no such checkpoint can be made
        faults = check(shape, tp, may_pad=False).faults
        verdicts.append(bool(faults))
        assert bool(faults) == refuses(check_shape, shape, tp), (shape, tp, faults)
    assert set(verdicts) == {True, False}


@pytest.mark.usefixtures("vllm")
def test_what_vllm_says_against_fp8_blocks_the_preflight_says_too() -> None:
    """The preflight says more: vLLM looks at the merged outputs of one rank only where it sees that they are split."""
    from vllm.model_executor.layers.quantization.utils.fp8_utils import validate_fp8_block_shape

    verdicts = []
    for shape, tp in divided(Block(128, 128)):

        def check_shape(linear: Linear, tp: int = tp) -> None:
            validate_fp8_block_shape(
                SimpleNamespace(tp_size=tp), linear[0], linear[1], linear[2], linear[3], [128, 128]
            )

        with first_rank_of(tp):
            refused = refuses(check_shape, shape, tp)
        verdicts.append(refused)
        assert not refused or check(shape, tp, may_pad=False).faults, (shape, tp)
    assert set(verdicts) == {True, False}
