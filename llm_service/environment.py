"""Environment variables that vLLM reads, set before it is imported."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

from llm_service.config import LlmConfig
from llm_service.padding import PLUGIN


def engine_environment(config: LlmConfig, socket_folder: Path) -> dict[str, str]:
    """The variables for a configuration; the engine's processes inherit them.

    Args:
        config: settings.
        socket_folder: private folder for the sockets between the service and its engine.
    """
    variables = {
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # The service logs what matters in its own form; the engine adds warnings and errors, on standard error.
        "VLLM_LOGGING_LEVEL": "DEBUG" if config.server.log_level == "debug" else "WARNING",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_RPC_BASE_PATH": str(socket_folder),
        "VLLM_CPU_KVCACHE_SPACE": str(config.cpu_kv_cache_gib),
        # vLLM would pin threads to fixed cores, which two engines on one host, or an engine and the vision service,
        # then fight over.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    if Path(config.model).is_dir():
        variables["HF_HUB_OFFLINE"] = "1"
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and PLUGIN not in allowed.split(","):
        variables["VLLM_PLUGINS"] = f"{allowed},{PLUGIN}"
    return variables


def cpu_threads(config: LlmConfig) -> int:
    """Threads of each rank on a CPU."""
    if config.cpu_threads_count:
        return config.cpu_threads_count
    ranks = config.tensor_parallel_size * config.pipeline_parallel_size
    return max(1, (len(os.sched_getaffinity(0)) - 1) // ranks)


def apply(variables: dict[str, str], environ: MutableMapping[str, str] = os.environ) -> None:
    """Sets the variables; the user's own logging level is kept."""
    for name, value in variables.items():
        if name == "VLLM_LOGGING_LEVEL":
            environ.setdefault(name, value)
        else:
            environ[name] = value
