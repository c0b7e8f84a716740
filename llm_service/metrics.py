"""What the language-model service counts and shows (docs/metrics.md), vLLM's own metrics included."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from llm_service.domain import EngineLoad, Finish, Load, WarmedPrefix
from serving.metrics.buckets import COUNTS, SECONDS
from serving.metrics.registry import ServiceMetrics

_PHASES = ("queue", "prefill", "decode", "total")
_VLLM = "vllm:"


class LlmMetrics(ServiceMetrics):
    """Answers, tokens, batches and load."""

    def __init__(self) -> None:
        super().__init__()
        registry = self.registry
        self._answers = Counter(
            "maifs_llm_answers_total", "Answers that were finished, by why they ended.", ["finish"], registry=registry
        )
        tokens = Counter("maifs_llm_tokens_total", "Tokens of finished answers.", ["kind"], registry=registry)
        self._prompt, self._cached, self._output = map(tokens.labels, ("prompt", "prompt_cached", "output"))
        self._warmed = Counter("maifs_llm_prefixes_warmed_total", "Prefixes that were computed.", registry=registry)
        phases = Histogram(
            "maifs_llm_phase_duration_seconds", "Time of the phases of an answer.", ["phase"], buckets=SECONDS,
            registry=registry,
        )  # fmt: skip
        self._phases = {phase: phases.labels(phase) for phase in _PHASES}
        self._batches = Histogram(
            "maifs_llm_batch_requests", "Requests in a step of the engine.", buckets=COUNTS, registry=registry
        )
        self._active = Gauge("maifs_llm_requests_active", "Requests that were admitted.", registry=registry)
        self._running = Gauge("maifs_llm_requests_running", "Requests in the engine's batch.", registry=registry)
        self._waiting = Gauge("maifs_llm_requests_waiting", "Requests that wait in the engine.", registry=registry)
        self._oldest = Gauge("maifs_llm_oldest_request_seconds", "Age of the oldest request.", registry=registry)
        self._kv_cache = Gauge("maifs_llm_kv_cache_usage_ratio", "Share of the KV cache in use.", registry=registry)

    def finished(self, finish: Finish) -> None:
        """An answer was finished."""
        self._answers.labels(finish.reason.value).inc()
        self._prompt.inc(finish.usage.prompt_tokens_count)
        self._cached.inc(finish.usage.cached_prompt_tokens_count)
        self._output.inc(finish.usage.output_tokens_count)
        for phase, histogram in self._phases.items():
            if phase in finish.timings_s:
                histogram.observe(finish.timings_s[phase])

    def warmed(self, prefix: WarmedPrefix) -> None:
        """A prefix was computed."""
        self._warmed.inc()
        self._prompt.inc(prefix.prompt_tokens_count)
        self._cached.inc(prefix.cached_prompt_tokens_count)

    def stepped(self, requests_count: int) -> None:
        """The engine has made a step with so many requests."""
        if requests_count:
            self._batches.observe(requests_count)

    def look(self, load: Load, engine: EngineLoad) -> None:
        """Sets the gauges."""
        self._active.set(load.active_requests_count)
        self._oldest.set(load.oldest_request_s)
        self._running.set(engine.running_requests_count)
        self._waiting.set(engine.waiting_requests_count)
        self._kv_cache.set(engine.kv_cache_usage_ratio)

    def pass_on_vllm(self) -> None:
        """Shows what vLLM counts, which it does in the registry of the whole process."""
        self.registry.register(_VllmMetrics())


class _VllmMetrics(Collector):
    def collect(self) -> Iterator[Metric]:
        return (metric for metric in REGISTRY.collect() if metric.name.startswith(_VLLM))

    def describe(self) -> list[Any]:
        return []  # asks for nothing at registration: vLLM makes its metrics later
