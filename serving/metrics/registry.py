"""The metrics that every service has, in a registry of its own: two services in one process do not share a count."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from serving import __version__
from serving.gpu.report import current_pin
from serving.metrics.buckets import SECONDS
from serving.metrics.gpu import GpuMetrics
from serving.status import reason_in

_log = logging.getLogger(__name__)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each counter and histogram, which no question needs

REFRESH_TIMEOUT_S = 5.0
"""For what is asked at each look; Prometheus itself gives up after 10 s."""


class ServiceMetrics:
    """Requests, process, GPU; the base of each service's own metrics.

    Counters and histograms are counted as things happen. Gauges that describe a state are set when somebody looks, on
    the event loop, by the functions in `on_look`: there they see the state as the service itself does.
    """

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.on_look: list[Callable[[], Awaitable[None]]] = []
        """Each sets gauges."""
        build = Gauge("maifs_build_info", "1; the version is the label.", ["version"], registry=registry)
        build.labels(__version__).set(1)
        self.serving = Gauge("maifs_serving", "1 while health says SERVING, else 0.", registry=registry)
        self._requests = Counter(
            "maifs_requests_total", "Calls that have ended, by gRPC code.", ["method", "code"], registry=registry
        )
        self._failures = Counter(
            "maifs_request_failures_total",
            "Calls that ended with an error of ours, by its reason.",
            ["method", "reason"],
            registry=registry,
        )
        self._durations = Histogram(
            "maifs_request_duration_seconds",
            "Time from a call's begin to its end.",
            ["method"],
            buckets=SECONDS,
            registry=registry,
        )
        self._open = Gauge("maifs_requests_open", "Calls in progress.", ["method"], registry=registry)
        self._look_errors = Counter(
            "maifs_metrics_errors_total", "Looks at the metrics that lack a part.", registry=registry
        )
        self._gpu = GpuMetrics(registry)

    @contextmanager
    def request(self, method: str, context: Any) -> Iterator[None]:
        """Counts a call; put around its handler."""
        name = method.rpartition("/")[2]
        open_calls = self._open.labels(name)
        open_calls.inc()
        start = time.perf_counter()
        code = grpc.StatusCode.OK
        try:
            yield
        except BaseException as error:
            code = _code(error, context)
            if reason := reason_in(context.trailing_metadata()):
                self._failures.labels(name, reason.name).inc()
            raise
        finally:
            open_calls.dec()
            self._durations.labels(name).observe(time.perf_counter() - start)
            self._requests.labels(name, code.name).inc()

    async def text(self) -> bytes:
        """All metrics in Prometheus' text format. A part that cannot be had is left as it was, and that is counted."""
        for look in self.on_look:
            try:
                async with asyncio.timeout(REFRESH_TIMEOUT_S):
                    await look()
            except Exception:  # noqa: BLE001 - one part that is broken must not hide the others
                _log.warning("metrics lack a part", exc_info=True)
                self._look_errors.inc()
        return await asyncio.to_thread(self._render)

    def _render(self) -> bytes:
        self._gpu.look(current_pin())
        return generate_latest(self.registry)


def _code(error: BaseException, context: Any) -> grpc.StatusCode:
    """The code with which a call ended that raised: its deadline cancels it as its client does."""
    if isinstance(error, grpc.aio.AbortError) and isinstance(context.code(), grpc.StatusCode):
        code: grpc.StatusCode = context.code()
        return code
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        left = context.time_remaining()
        late = left is not None and left <= 0
        return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
    return grpc.StatusCode.UNKNOWN
