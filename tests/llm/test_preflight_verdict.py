"""The preflight's rule on attention heads agrees with the verdict of vLLM's own configuration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from serving.model_config import decoder_sizes
from serving.sharding import find_faults
from tests.model import prepared_model

HEADS = [(40, 8), (28, 4), (32, 8), (9, 3), (14, 2), (12, 2), (64, 8), (16, 16), (24, 8), (15, 5), (6, 3)]
"""Query and KV heads of Qwen2.5-32B, Qwen2.5-7B, Llama-3-8B, SmolLM2-135M and other published models."""


@pytest.mark.engine
def test_preflight_agrees_with_vllm_on_heads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = prepared_model()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.config import ModelConfig, ParallelConfig

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(small / name, tmp_path)
    base = json.loads((small / "config.json").read_text())
    for heads, kv_heads in HEADS:
        sizes = {"hidden_size": heads * 64, "intermediate_size": 2304, "vocab_size": 49152}
        table = base | sizes | {"num_attention_heads": heads, "num_key_value_heads": kv_heads}
        (tmp_path / "config.json").write_text(json.dumps(table))
        shape = decoder_sizes(table)
        model = ModelConfig(model=str(tmp_path), max_model_len=1024)
        for tp in range(1, 5):
            parallel = ParallelConfig(tensor_parallel_size=tp, distributed_executor_backend="mp")
            try:
                model.verify_with_parallel_config(parallel)
                vllm_accepts = True
            except ValueError as error:
                assert "attention heads" in str(error)
                vllm_accepts = False
            ours = not any("attention heads" in fault for fault in find_faults(shape, tp))
            assert ours == vllm_accepts, (heads, kv_heads, tp)
