"""Starts vLLM: the one module that imports it to build an engine."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from llm_service import environment
from llm_service.adapters import adapter_arguments
from llm_service.config import LlmConfig
from llm_service.devices import find_devices
from llm_service.model_files import architectures, check_model_files
from llm_service.padding import PLUGIN, config_overrides, register
from llm_service.parent_watch import ParentWatch
from llm_service.preflight import Prepared, check_layout
from serving.errors import MaifsError, Reason
from serving.sharding import split_layers

_log = logging.getLogger(__name__)

CPU_BLOCK_TOKENS_COUNT = 32
"""KV block on a CPU. Whole blocks are shared between prompts; vLLM's 128 would leave short prefixes uncached."""


@dataclass(frozen=True)
class Launched:
    """A running engine and how long each phase of its start took."""

    llm: Any
    """vllm.v1.engine.async_llm.AsyncLLM."""
    is_cpu: bool
    prepared: Prepared
    phases_s: dict[str, float]
    """"import", "config", "engine" (processes, weights, KV cache), in seconds."""


def launch(config: LlmConfig, socket_folder: Path, stopping: Callable[[], bool]) -> Launched:
    """Imports vLLM, reads the model's configuration and starts the engine. Blocks; call it in a thread.

    Args:
        config: settings.
        socket_folder: for the sockets between the service and its engine, which vLLM leaves behind.
        stopping: asked between phases; true gives up.

    Raises:
        MaifsError: MODEL_UNUSABLE when vLLM refuses the model or the layout; SHUTTING_DOWN when `stopping`.
    """
    check_model_files(config.model)
    prepared = check_layout(config, find_devices())
    padding = padding_arguments(prepared)
    if padding:
        check_plugin()
        _log.info("the model is padded", extra={"padding": str(prepared)})
    phases: dict[str, float] = {}
    environment.apply(environment.engine_environment(config, socket_folder))
    if prepared.sizes and config.pipeline_parallel_size > 1:  # as the preflight has counted it
        layers = split_layers(prepared.sizes.layers, config.pipeline_parallel_size)
        os.environ.setdefault("VLLM_PP_LAYER_PARTITION", ",".join(map(str, layers)))
    clock = _Phases(phases, stopping)
    with clock.phase("import"):
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    is_cpu = bool(current_platform.is_cpu())
    if is_cpu:
        threads = str(environment.cpu_threads(config))
        os.environ.update(OMP_NUM_THREADS=threads, OMP_WAIT_POLICY="PASSIVE")
    try:
        with clock.phase("config"):
            if is_cpu:
                _inspect_in_process(_classes(config.model, padding))
            arguments = engine_arguments(config, is_cpu) | padding
            vllm_config = AsyncEngineArgs(**arguments).create_engine_config()
            vllm_config.additional_config = ParentWatch(os.getpid())
        with clock.phase("engine"):
            llm = AsyncLLM.from_vllm_config(vllm_config)
    except MaifsError:
        raise
    except Exception as error:
        if stopping():
            raise _given_up() from error
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"vLLM cannot run {config.model}: {_first_lines(error)}",
            _advice(config),
        ) from error
    return Launched(llm, is_cpu, prepared, phases)


def engine_arguments(config: LlmConfig, is_cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's AsyncEngineArgs."""
    arguments: dict[str, Any] = {
        "model": config.model,
        "tensor_parallel_size": config.tensor_parallel_size,
        "pipeline_parallel_size": config.pipeline_parallel_size,
        "dtype": config.dtype,
        "quantization": config.quantization,
        "max_model_len": config.max_model_len_tokens_count,
        "max_num_seqs": config.max_running_requests_count,
        "max_num_batched_tokens": config.max_batched_tokens_count,
        "cpu_offload_gb": config.cpu_offload_gib,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "enforce_eager": is_cpu if config.enforce_eager is None else config.enforce_eager,
        "enable_prefix_caching": config.prefix_caching,
        "enable_chunked_prefill": True,
        "scheduling_policy": "priority",
        # A small model left free to choose may write blanks until its tokens are spent.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        "disable_log_stats": False,  # the phases of a request come from them
        "use_tqdm_on_load": False,
        "seed": 0,
        "limit_mm_per_prompt": {"image": config.max_images_count, "video": 0, "audio": 0},
        **adapter_arguments(config.adapters, is_cpu),
    }
    if is_cpu:
        arguments["block_size"] = CPU_BLOCK_TOKENS_COUNT
        if config.tensor_parallel_size * config.pipeline_parallel_size == 1:
            # One process less to start and no message queue between them. vLLM starts a worker process on a CPU
            # to give it thread settings, which `launch` sets in the environment.
            from vllm.v1.executor.uniproc_executor import UniProcExecutor

            arguments["distributed_executor_backend"] = UniProcExecutor
    return arguments


def padding_arguments(prepared: Prepared) -> dict[str, Any]:
    """What AsyncEngineArgs needs for a padded model; nothing for one that runs as it is."""
    if prepared.sizes is None or prepared.padding is None:
        return {}
    return {
        "hf_overrides": config_overrides(prepared.sizes, prepared.padding),
        # Mistral's own format names and orders the weights of heads in another way.
        "config_format": "hf",
        "load_format": "hf",
    }


def check_plugin() -> None:
    """Checks that vLLM's processes will find the padded classes.

    Raises:
        MaifsError: INVALID_CONFIG when this package was installed without its entry points.
    """
    if not any(entry.name == PLUGIN for entry in entry_points(group="vllm.general_plugins")):
        raise MaifsError(
            Reason.INVALID_CONFIG,
            f"The padding plugin {PLUGIN} is not among the installed entry points of vllm.general_plugins.",
            'Install this package again (pip install), or set pad_heads = "never" and another layout.',
        )


def _classes(model: str, padding: Mapping[str, Any]) -> list[str]:
    if not padding:
        return architectures(model)
    register()
    return list(padding["hf_overrides"]["architectures"])


def _inspect_in_process(classes: Iterable[str]) -> None:
    """Spares the first start on a machine 12 s of CPU time.

    vLLM starts a whole Python to look at a model's class, lest the class initialise CUDA here; on a CPU that cannot
    be. Architectures that are not known, and models given by name, are left to vLLM.
    """
    from vllm import ModelRegistry

    for architecture in classes:
        known = ModelRegistry.models.get(architecture)
        if known is not None:
            ModelRegistry.register_model(architecture, known.load_model_cls())


def _advice(config: LlmConfig) -> str:
    log = "The engine's own messages are in the log above."
    if config.quantization is None:
        return log
    return f"quantization = {config.quantization!r} is set; not set, it is what the checkpoint says. {log}"


def _first_lines(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 600 else text[:600] + "…"


def _given_up() -> MaifsError:
    return MaifsError(Reason.SHUTTING_DOWN, "The service was stopped while the engine was starting.")


class _Phases:
    """Times phases."""

    def __init__(self, seconds: dict[str, float], stopping: Callable[[], bool]) -> None:
        self._seconds, self._stopping = seconds, stopping

    def phase(self, name: str) -> _Phase:
        if self._stopping():
            raise _given_up()
        _log.info("starting", extra={"phase": name})
        return _Phase(self._seconds, name)


class _Phase:
    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds[self._name] = round(time.perf_counter() - self._start, 3)
