"""Memory and profiles: what fits is started, what does not is refused with numbers and with what would fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llm_service.config import LlmConfig
from llm_service.devices import Devices, visible_gpus
from llm_service.preflight import check_layout
from serving.config import load_config
from serving.errors import MaifsError, Reason
from serving.gpu.inventory import Gpu, Inventory
from serving.model_memory import GIB
from serving.profiles import PROFILES


def gpu(index: int, total_gib: float = 39.4, free_gib: float | None = None) -> Gpu:
    total = round(total_gib * GIB)
    free = total if free_gib is None else round(free_gib * GIB)
    return Gpu(
        index=index,
        minor=index,
        uuid=f"GPU-0000000{index}-0000-0000-0000-000000000000",
        pci_bus_id=f"00000000:0{index}:00.0",
        name="A100-40GB",
        total_bytes=total,
        used_bytes=total - free,
        free_bytes=free,
        bandwidth_bytes_per_s=1.555e12,
        compute_capability=(8, 0),
        numa_node=0,
        persistence=True,
        compute_mode=0,
        mig=False,
        uncorrected_ecc_errors=0,
        throttle_reasons=0,
        processes=(),
    )


def host(count: int, **sizes: Any) -> Devices:
    return Devices(tuple(gpu(i, **sizes) for i in range(count)))


def config(**changes: Any) -> LlmConfig:
    found = replace(LlmConfig(), max_model_len_tokens_count=4096, **changes)
    assert found.faults() == []
    return found.laid_out()


def refusal(settings: LlmConfig, devices: Devices, reason: Reason = Reason.MODEL_UNUSABLE) -> str:
    with pytest.raises(MaifsError) as caught:
        check_layout(settings, devices)
    assert caught.value.reason is reason
    return str(caught.value)


def test_the_guide_s_model_runs_padded_on_three_gpus() -> None:
    assert str(check_layout(config(tensor_parallel_size=3), host(3))).startswith("45/9 heads, 5/1 padded")


def test_weights_that_do_not_fit_are_refused_with_what_would_fit() -> None:
    text = refusal(config(), host(3))
    assert "weights of 61.0 GiB per GPU do not fit into 34.2 GiB" in text
    assert "run: tensor_parallel_size = 2;" in text
    assert "With weights of 4 bits (an AWQ checkpoint of the model)" in text


def test_a_forbidden_padding_is_refused_with_every_way_out() -> None:
    text = refusal(config(tensor_parallel_size=3, pad_heads="never"), host(3))
    assert "40 attention heads do not divide by 3; 8 KV heads neither divide by 3 nor divide 3" in text
    assert "pipeline_parallel_size = 3; tensor_parallel_size = 2" in text
    assert 'With pad_heads = "auto" it runs as it is wanted' in text


def test_one_device_that_holds_the_model_suggests_replicas() -> None:
    small = config(model="Qwen/Qwen2.5-7B-Instruct", tensor_parallel_size=3, pad_heads="never")
    assert "(replicas)" in refusal(small, host(3))


def test_a_context_too_long_for_the_cache_is_refused() -> None:
    long = replace(config(tensor_parallel_size=2), max_model_len_tokens_count=32_768)
    assert "3.7 GiB left for the KV cache do not hold one sequence of 32768 tokens" in refusal(long, host(2))


def test_a_busy_gpu_is_named_with_what_is_wanted_and_may_be_free_later() -> None:
    devices = Devices((gpu(0), gpu(1, free_gib=30.0)))
    text = refusal(config(tensor_parallel_size=2), devices, Reason.BACKEND_UNAVAILABLE)
    assert "GPU 1 (GPU-00000001-0000-0000-0000-000000000000) has 30.0 GiB free of 39.4" in text
    assert "gpu_memory_utilization = 0.92 wants 36.2" in text
    assert "GPU 0" not in text
    lower = config(tensor_parallel_size=2, gpu_memory_utilization=0.7, model="Qwen/Qwen2.5-14B-Instruct")
    check_layout(lower, devices)


def test_a_busy_gpu_is_noticed_for_models_of_unknown_size_too(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"num_experts": 8}))
    text = refusal(config(model=str(tmp_path)), host(1, free_gib=1.0), Reason.BACKEND_UNAVAILABLE)
    assert "1.0 GiB free" in text


def test_too_few_gpus_are_counted() -> None:
    text = refusal(config(tensor_parallel_size=3), host(2))
    assert "3 GPUs are needed and 2 can be seen" in text
    assert "run: tensor_parallel_size = 2;" in text


def test_weights_kept_in_the_host_s_memory_make_room() -> None:
    one = config(tensor_parallel_size=2, gpu_memory_utilization=0.7)
    assert "do not fit" in refusal(one, host(2))
    check_layout(replace(one, cpu_offload_gib=20), host(2))


def test_numbers_of_32_bits_take_twice_as_much() -> None:
    wide = config(tensor_parallel_size=3, dtype="float32")
    assert "weights of 41.3 GiB per GPU do not fit into 34.2 GiB" in refusal(wide, host(3))


def test_a_cpu_must_hold_weights_and_one_sequence() -> None:
    small = config(model="HuggingFaceTB/SmolLM2-135M-Instruct", tensor_parallel_size=3)
    roomy = Devices(host_free_bytes=8 * GIB)
    check_layout(small, roomy)
    assert "3.0 GiB of KV cache do not fit into the 2.0 GiB" in refusal(
        small, Devices(host_free_bytes=2 * GIB), Reason.BACKEND_UNAVAILABLE
    )
    long = replace(small, tensor_parallel_size=1, max_model_len_tokens_count=100_000)
    assert "cpu_kv_cache_gib = 1 does not hold one sequence of 100000 tokens" in refusal(long, roomy)
    assert "needs GPUs" in refusal(replace(small, cpu_offload_gib=4), roomy)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_runs_on_the_guide_s_host_or_says_why_not(name: str) -> None:
    model = "Qwen/Qwen2.5-32B-Instruct" + ("-AWQ" if name.endswith("awq") else "")
    settings = config(profile=name, model=model)
    profile = PROFILES[name]
    assert (settings.tensor_parallel_size, settings.pipeline_parallel_size, settings.cpu_offload_gib) == (
        profile.tensor_parallel,
        profile.pipeline_parallel,
        profile.offload_gib,
    )
    if name == "single":
        assert "weights of 61.0 GiB per GPU do not fit" in refusal(settings, host(1))
    else:
        check_layout(settings, host(profile.llm_gpus))


def test_a_profile_of_4_bits_refuses_weights_of_16() -> None:
    text = refusal(config(profile="2+2-awq"), host(2))
    assert "profile = '2+2-awq' needs weights stored as awq; those of Qwen/Qwen2.5-32B-Instruct are bf16" in text


def test_offload_has_no_sense_on_a_cpu() -> None:
    settings = config(profile="cpu-offload", model="HuggingFaceTB/SmolLM2-135M-Instruct")
    assert "cpu_offload_gib = 20 needs GPUs" in refusal(settings, Devices(host_free_bytes=64 * GIB))


def test_a_profile_comes_from_the_environment_and_does_not_argue_with_sizes() -> None:
    environ = {"MAIFS_LLM_PROFILE": "3+1"}
    assert load_config(LlmConfig, "llm", environ=environ).laid_out().tensor_parallel_size == 3
    load_config(LlmConfig, "llm", environ=environ | {"MAIFS_LLM_TENSOR_PARALLEL_SIZE": "3"})
    with pytest.raises(MaifsError, match="profile = '3\\+1' sets it to 3; leave one of them out"):
        load_config(LlmConfig, "llm", environ=environ | {"MAIFS_LLM_TENSOR_PARALLEL_SIZE": "2"})
    with pytest.raises(MaifsError, match="must be one of 3\\+1, 3\\+1-pp"):
        load_config(LlmConfig, "llm", environ={"MAIFS_LLM_PROFILE": "4+0"})


def test_adapters_and_padding_do_not_go_together() -> None:
    padded = config(tensor_parallel_size=3, adapters=("tone=/adapters/tone",))
    assert "LoRA adapters of a padded model cannot be loaded" in refusal(padded, host(3))
    check_layout(replace(padded, tensor_parallel_size=2), host(2))


def test_weights_quantised_at_load_are_counted_and_padded_where_that_is_known() -> None:
    eight = config(quantization="fp8")
    text = refusal(replace(eight, gpu_memory_utilization=0.8), host(1))
    assert "weights of 32.0 GiB per GPU do not fit into 29.5 GiB. No layout runs on one device." in text
    assert "an AWQ checkpoint" in text
    check_layout(replace(eight, tensor_parallel_size=3, gpu_memory_utilization=0.4), host(3))
    other = config(quantization="bitsandbytes", tensor_parallel_size=3)
    assert "weights with quantization = 'bitsandbytes' cannot be padded" in refusal(other, host(3))


def test_the_gpus_are_those_that_cuda_shows() -> None:
    inventory = Inventory("580.1", (13, 0), (gpu(0), gpu(1), gpu(2)))
    assert [g.index for g in visible_gpus(inventory, None)] == [0, 1, 2]
    shown = "GPU-00000002-0000-0000-0000-000000000000,0"
    assert [g.index for g in visible_gpus(inventory, shown)] == [2, 0]


def test_weights_are_counted_from_the_files(tmp_path: Path) -> None:
    table = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 192,
    }
    (tmp_path / "config.json").write_text(json.dumps(table))
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 50 * GIB]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "weights of 50.0 GiB per GPU do not fit" in refusal(config(model=str(tmp_path)), host(1))
