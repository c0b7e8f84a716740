"""What the engine's scheduler reports after each of its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llm_service.domain import EngineLoad


class SchedulerWatch:
    """Keeps the latest report; one of vLLM's stat loggers (vllm.v1.metrics.loggers.AggregateStatLoggerBase) by shape.

    It takes the place of vLLM's own. That for Prometheus stays where somebody reads it: it counts every token.

    Args:
        llm: a running vllm.v1.engine.async_llm.AsyncLLM, with statistics on.
        on_step: called after each step with the requests that run.
        keep_prometheus: whether vLLM's own metrics are read.
    """

    def __init__(self, llm: Any, on_step: Callable[[int], None], *, keep_prometheus: bool) -> None:
        self.load = EngineLoad()
        self._on_step = on_step
        loggers = llm.logger_manager.stat_loggers
        kept = [logger for logger in loggers if keep_prometheus and type(logger).__name__ == "PrometheusStatLogger"]
        loggers[:] = [self, *kept]

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: Any) -> None:
        """Called by vLLM on the event loop after each step of the engine."""
        if scheduler_stats is not None:
            waiting = scheduler_stats.num_waiting_reqs + scheduler_stats.num_skipped_waiting_reqs
            self._on_step(scheduler_stats.num_running_reqs)
            self.load = EngineLoad(scheduler_stats.num_running_reqs, waiting, scheduler_stats.kv_cache_usage)

    def log(self) -> None:
        """Nothing to log."""

    def log_engine_initialized(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, sleep: int = 0, level: int = 0) -> None:
        """The service never puts its engine to sleep."""

    def record_admission_rejection(self, reason: str) -> None:
        """The service refuses requests itself, before the engine."""
