"""Settings, the environment and the model directory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llm_service.config import LlmConfig
from llm_service.environment import apply, cpu_threads, engine_environment
from llm_service.model_files import check_model_files
from serving.config import load_config
from serving.errors import MaifsError, Reason
from tests.processes import ROOT


def test_defaults_are_valid() -> None:
    assert load_config(LlmConfig, "llm", environ={}) == LlmConfig()
    assert LlmConfig().faults() == []


def test_every_fault_is_listed() -> None:
    overrides = {
        "tensor_parallel_size": "0",
        "dtype": "int3",
        "gpu_memory_utilization": "1.5",
        "max_output_tokens_count": "100",
        "max_queued_requests_count": "-1",
        "model": " ",
    }
    with pytest.raises(MaifsError) as caught:
        load_config(LlmConfig, "llm", environ={}, overrides=overrides)
    assert all(name in caught.value.message for name in overrides)


def test_longest_answer_must_leave_room_for_a_prompt() -> None:
    assert any("max_output" in fault for fault in replace(LlmConfig(), max_model_len_tokens_count=2048).faults())


def test_printing_the_settings_imports_no_engine() -> None:
    code = "import sys; from llm_service.__main__ import main; main(['--print-config']); print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "[llm.server]" in run.stdout
    assert not {"vllm", "torch", "transformers"} & set(run.stdout.split())


def test_local_model_is_loaded_without_the_hub_and_nothing_is_reported_home(tmp_path: Path) -> None:
    local = engine_environment(replace(LlmConfig(), model=str(tmp_path)), tmp_path)
    named = engine_environment(LlmConfig(), tmp_path)
    assert local["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in named
    assert named["VLLM_NO_USAGE_STATS"] == named["DO_NOT_TRACK"] == "1"


def test_logging_level_of_the_user_is_kept(tmp_path: Path) -> None:
    environ = {"VLLM_LOGGING_LEVEL": "INFO", "DO_NOT_TRACK": "0"}
    apply(engine_environment(LlmConfig(), tmp_path), environ)
    assert environ["VLLM_LOGGING_LEVEL"] == "INFO"
    assert environ["DO_NOT_TRACK"] == "1"


def test_ranks_share_the_cores_and_get_at_least_one_thread() -> None:
    assert cpu_threads(replace(LlmConfig(), cpu_threads_count=5)) == 5
    assert cpu_threads(replace(LlmConfig(), tensor_parallel_size=4096)) == 1


def test_model_name_on_the_hub_is_left_to_the_engine() -> None:
    check_model_files("Qwen/Qwen2.5-32B-Instruct")


def test_missing_model_directory_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(MaifsError, match=r"does not exist.*prepare-model") as caught:
        check_model_files(str(tmp_path / "none"))
    assert caught.value.reason is Reason.MODEL_UNUSABLE


def test_half_a_download_is_refused_with_the_missing_shards(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weights}))
    first, second = (tmp_path / name for name in weights.values())
    save_file({"a": torch.zeros(64)}, first)
    with pytest.raises(MaifsError, match="model-00002-of-00002") as caught:
        check_model_files(str(tmp_path))
    assert "00001" not in caught.value.message
    save_file({"b": torch.zeros(64)}, second)
    check_model_files(str(tmp_path))


@pytest.mark.parametrize("kept", [0, 4, 60, 200])
def test_weights_cut_short_are_refused_by_name(kept: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(64)}, weights)
    check_model_files(str(tmp_path))
    weights.write_bytes(weights.read_bytes()[:kept])
    with pytest.raises(MaifsError, match=r"model\.safetensors") as caught:
        check_model_files(str(tmp_path))
    assert caught.value.reason is Reason.MODEL_UNUSABLE
