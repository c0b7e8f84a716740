"""Settings of the LLM service."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from llm_service.adapters import parse_adapters
from serving.gpu.session import GpuConfig
from serving.profiles import PROFILES
from serving.server import ServerConfig


@dataclass(frozen=True)
class LlmServerConfig(ServerConfig):
    """How the LLM service listens."""

    address: str = "unix:/run/maifs/llm.sock"
    """"unix:/absolute/path" or "host:port" on loopback."""


@dataclass(frozen=True)
class LlmConfig:
    """One model, its layout over devices, and the limits of a request."""

    server: LlmServerConfig = field(default_factory=LlmServerConfig)
    """How the service listens."""
    gpu: GpuConfig = field(default_factory=GpuConfig)
    """The GPUs that it keeps to."""
    model: str = "Qwen/Qwen2.5-32B-Instruct"
    """Name on the model hub, or a directory with config.json, tokenizer and safetensors."""
    profile: str | None = None
    """A named layout (3+1, 3+1-pp, 2+2, 2+2-awq, cpu-offload, single), which sets the three sizes below."""
    tensor_parallel_size: int = 1
    """Devices that share each layer. The 4-GPU host uses 3."""
    pipeline_parallel_size: int = 1
    """Devices, or groups of them, that share the layers one after another."""
    cpu_offload_gib: int = 0
    """Weights of each GPU that stay in the host's memory, in GiB: slow. Not on a CPU."""
    pad_heads: str = "auto"
    """"auto" appends zero heads and columns where a model does not divide by tensor_parallel_size; "never" refuses."""
    dtype: str = "auto"
    """"auto" takes the checkpoint's; else "bfloat16", "float16" or "float32"."""
    quantization: str | None = None
    """Quantisation method, e.g. "fp8"; not set takes what the checkpoint says."""
    max_model_len_tokens_count: int = 8192
    """Longest prompt plus answer."""
    max_running_requests_count: int = 16
    """Requests in one batch."""
    max_batched_tokens_count: int = 4096
    """Most tokens of one engine step; longer prompts are prefilled in chunks."""
    max_queued_requests_count: int = 64
    """Requests that may wait behind the running ones before new ones are refused with QUEUE_FULL."""
    default_output_tokens_count: int = 512
    """Most tokens of an answer when the request does not say."""
    max_output_tokens_count: int = 2048
    """Most tokens that a request may ask for."""
    prefix_caching: bool = True
    """Whether prompts share the KV cache of equal beginnings; WarmPrefix needs it."""
    adapters: tuple[str, ...] = ()
    """LoRA adapters that requests may ask for by name: "NAME=DIRECTORY" each. All are kept loaded."""
    max_images_count: int = 2
    """Pictures in one request to a vision-language model. Without effect on a model that takes text alone."""
    gpu_memory_utilization: float = 0.92
    """Share of each GPU's memory that the engine reserves, 0..1. Without effect on a CPU."""
    cpu_kv_cache_gib: int = 1
    """KV cache in GiB on a CPU, for each rank."""
    cpu_threads_count: int | None = None
    """Threads of each rank on a CPU; not set leaves one core free for the rest of the service."""
    enforce_eager: bool | None = None
    """Whether to run without compilation and CUDA graphs; not set means true on a CPU only (quick start)."""
    health_poll_s: float = 0.5
    """Seconds between looks at the engine's life."""

    def faults(self) -> list[str]:
        """See serving.config."""
        found = [
            f"{name} = {getattr(self, name)}: must be at least 1"
            for name in (
                "tensor_parallel_size",
                "pipeline_parallel_size",
                "max_running_requests_count",
                "max_batched_tokens_count",
                "default_output_tokens_count",
                "cpu_kv_cache_gib",
            )
            if getattr(self, name) < 1
        ]
        if self.cpu_offload_gib < 0:
            found.append(f"cpu_offload_gib = {self.cpu_offload_gib}: must be at least 0")
        if not self.model.strip():
            found.append("model is empty: give a name on the model hub or a directory")
        if self.dtype not in {"auto", "bfloat16", "float16", "float32"}:
            found.append(f"dtype = {self.dtype!r}: must be auto, bfloat16, float16 or float32")
        if self.pad_heads not in {"auto", "never"}:
            found.append(f"pad_heads = {self.pad_heads!r}: must be auto or never")
        if self.max_model_len_tokens_count < 16:
            found.append(f"max_model_len_tokens_count = {self.max_model_len_tokens_count}: must be at least 16")
        if self.max_queued_requests_count < 0:
            found.append(f"max_queued_requests_count = {self.max_queued_requests_count}: must be at least 0")
        if self.max_images_count < 0:
            found.append(f"max_images_count = {self.max_images_count}: must be at least 0")
        found.extend(parse_adapters(self.adapters)[1])
        if not 0 < self.gpu_memory_utilization <= 1:
            found.append(f"gpu_memory_utilization = {self.gpu_memory_utilization}: must be above 0 and at most 1")
        if self.cpu_threads_count is not None and self.cpu_threads_count < 1:
            found.append(f"cpu_threads_count = {self.cpu_threads_count}: must be at least 1")
        if not 0 < self.health_poll_s <= 60:
            found.append(f"health_poll_s = {self.health_poll_s}: must be above 0 and at most 60")
        return found + self._output_faults() + self._profile_faults()

    def laid_out(self) -> LlmConfig:
        """The settings with the sizes of the profile, if one is named."""
        return self if self.profile is None else replace(self, **self._profile_sizes(self.profile))

    @staticmethod
    def _profile_sizes(name: str) -> dict[str, Any]:
        profile = PROFILES[name]
        return {
            "tensor_parallel_size": profile.tensor_parallel,
            "pipeline_parallel_size": profile.pipeline_parallel,
            "cpu_offload_gib": profile.offload_gib,
        }

    def _profile_faults(self) -> list[str]:
        if self.profile is None:
            return []
        if self.profile not in PROFILES:
            return [f"profile = {self.profile!r}: must be one of {', '.join(PROFILES)}"]
        neutral = {"tensor_parallel_size": 1, "pipeline_parallel_size": 1, "cpu_offload_gib": 0}
        return [
            f"{name} = {getattr(self, name)}: profile = {self.profile!r} sets it to {size}; leave one of them out"
            for name, size in self._profile_sizes(self.profile).items()
            if getattr(self, name) not in {neutral[name], size}
        ]

    def _output_faults(self) -> list[str]:
        found = []
        if self.max_output_tokens_count < self.default_output_tokens_count:
            found.append(
                f"max_output_tokens_count = {self.max_output_tokens_count}: must be at least "
                f"default_output_tokens_count = {self.default_output_tokens_count}"
            )
        if self.max_output_tokens_count >= self.max_model_len_tokens_count:
            found.append(
                f"max_output_tokens_count = {self.max_output_tokens_count}: must be below "
                f"max_model_len_tokens_count = {self.max_model_len_tokens_count}, which holds the prompt too"
            )
        return found
