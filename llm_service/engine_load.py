"""What the engine's scheduler reports after each of its steps."""

from __future__ import annotations

from typing import Any

from llm_service.domain import EngineLoad


class SchedulerWatch:
    """Keeps the latest report; one of vLLM's stat loggers (vllm.v1.metrics.loggers.AggregateStatLoggerBase) by shape.

    It takes the place of vLLM's own, which count every token for a Prometheus registry that nobody reads here.

    Args:
        llm: a running vllm.v1.engine.async_llm.AsyncLLM, with statistics on.
    """

    def __init__(self, llm: Any) -> None:
        self.load = EngineLoad()
        llm.logger_manager.stat_loggers[:] = [self]

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Called by vLLM on the event loop after each step of the engine."""
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self.load = EngineLoad(scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage)

    def log(self) -> None:
        """Nothing to log."""

    def log_engine_initialized(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """The service never puts its engine to sleep."""

    def record_admission_rejection(self, reason: str) -> None:
        """The service refuses requests itself, before the engine."""
