"""Models and adapters that cannot be run are refused at the start, by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_service import environment
from llm_service.config import LlmConfig
from llm_service.launch import launch
from serving.errors import MaifsError, Reason
from tests.llm.test_adapters import adapter_folder
from tests.model import prepared_model

pytestmark = pytest.mark.engine


def refused(config: LlmConfig, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The message of a start that must be refused, before a process of the engine is started."""
    monkeypatch.setattr(environment, "apply", lambda variables: None)  # this process serves other tests too
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    with pytest.raises(MaifsError) as caught:
        launch(config, folder, lambda: False)
    assert caught.value.reason is Reason.MODEL_UNUSABLE
    return str(caught.value)


def copied_model(folder: Path) -> Path:
    """A copy of the small model whose files may be changed."""
    copy = folder / "model"
    copy.mkdir()
    for path in prepared_model().iterdir():
        if path.suffix == ".safetensors":
            (copy / path.name).symlink_to(path)
        else:
            shutil.copy(path, copy)
    return copy


def small(model: Path) -> LlmConfig:
    """Settings for the small model."""
    return replace(LlmConfig(), model=str(model), max_model_len_tokens_count=2048, max_output_tokens_count=512)


@pytest.mark.parametrize("quantization", ["awq", "gptq", "no-such-method"])
def test_wrong_quantisation(quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(small(prepared_model()), quantization=quantization)
    assert f"quantization = {quantization!r}" in refused(config, tmp_path, monkeypatch)


def test_context_longer_than_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(small(prepared_model()), max_model_len_tokens_count=1_000_000)
    message = refused(config, tmp_path, monkeypatch)
    assert "1000000" in message.replace(",", "")


def test_weights_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copied_model(tmp_path)
    weights = model / "model.safetensors"
    whole = weights.resolve().read_bytes()
    weights.unlink()
    weights.write_bytes(whole[: len(whole) // 2])
    assert "model.safetensors" in refused(small(model), tmp_path, monkeypatch)


def test_unknown_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = copied_model(tmp_path)
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.replace("LlamaForCausalLM", "NoSuchModel"))
    assert "NoSuchModel" in refused(small(model), tmp_path, monkeypatch)


def test_adapter_that_is_half_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapter_folder(tmp_path / "adapter")
    (adapter / "adapter_model.safetensors").unlink()
    config = replace(small(prepared_model()), adapters=(f"forensic={adapter}",))
    assert "adapter forensic" in refused(config, tmp_path, monkeypatch)


def test_engine_is_told_its_limits_and_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vllm.v1.engine.async_llm import AsyncLLM

    told: list[Any] = []

    def stop_here(vllm_config: Any, **_: Any) -> None:
        told.append(vllm_config)
        raise RuntimeError("no process is needed")

    monkeypatch.setattr(AsyncLLM, "from_vllm_config", stop_here)
    config = replace(small(prepared_model()), max_running_requests_count=7, max_batched_tokens_count=512)
    refused(replace(config, prefix_caching=False), tmp_path, monkeypatch)
    scheduler, cache = told[0].scheduler_config, told[0].cache_config
    assert (scheduler.max_num_seqs, scheduler.max_num_batched_tokens) == (7, 512)
    assert (scheduler.policy, scheduler.enable_chunked_prefill) == ("priority", True)
    assert not cache.enable_prefix_caching
