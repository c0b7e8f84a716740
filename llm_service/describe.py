"""What was loaded, read from vLLM's own configuration."""

from __future__ import annotations

from typing import Any

from llm_service.config import LlmConfig
from llm_service.domain import ModelDescription
from llm_service.launch import Launched


def describe(launched: Launched, config: LlmConfig) -> ModelDescription:
    """The description of a running engine."""
    from vllm import __version__

    prepared = launched.prepared
    zeros, cost = prepared.zeros, prepared.cost
    vllm_config = launched.llm.vllm_config
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    return ModelDescription(
        model=config.model,
        architecture=prepared.sizes.architecture if prepared.sizes and prepared.padding else str(model.architecture),
        dtype=str(model.dtype).removeprefix("torch."),
        quantization=str(model.quantization or ""),
        tensor_parallel_size=parallel.tensor_parallel_size,
        pipeline_parallel_size=parallel.pipeline_parallel_size,
        devices=_devices(parallel.world_size, is_cpu=launched.is_cpu),
        attention_heads_count=int(model.hf_text_config.num_attention_heads),
        kv_heads_count=int(model.get_total_num_kv_heads()),
        padded_attention_heads_count=zeros.query_heads,
        padded_kv_heads_count=zeros.kv_heads,
        padded_intermediate_columns_count=zeros.intermediate_size,
        padded_vocabulary_rows_count=zeros.vocab_size,
        padding_weights_ratio=cost.weights,
        padding_kv_cache_ratio=cost.kv,
        profile=config.profile or "",
        max_model_len_tokens_count=int(model.max_model_len),
        max_running_requests_count=int(vllm_config.scheduler_config.max_num_seqs),
        prefix_caching=bool(vllm_config.cache_config.enable_prefix_caching),
        engine_version=f"vllm {__version__}",
    )


def _devices(ranks: int, *, is_cpu: bool) -> tuple[str, ...]:
    if is_cpu:
        return ("cpu",) * ranks
    from vllm.platforms import current_platform

    return tuple(_gpu(current_platform, rank) for rank in range(ranks))


def _gpu(platform: Any, rank: int) -> str:
    """By NVML, which needs no CUDA context in this process."""
    return f"cuda:{rank} {platform.get_device_name(rank)} {platform.get_device_uuid(rank)}"
