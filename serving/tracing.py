"""OpenTelemetry spans.

Off unless an endpoint is set: then nothing of OpenTelemetry is imported, and a client's trace context goes on to the
backends all the same. Spans are kept in a context variable of our own: handlers are async generators, which may be
closed in another context than they were begun in, and OpenTelemetry's own variable does not bear that.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from serving import __version__
from serving.errors import MaifsError
from serving.requests import current_request_id
from serving.status import reason_in
from serving.trace_context import current_span, headers_in, received

_FLUSH_MS = 3000
"""For the last spans when a service ends; a collector that is away must not keep it."""

_tracing: _Tracing | None = None


@dataclass(frozen=True)
class TracingConfig:
    """Table [<service>.server.tracing]."""

    endpoint: str = ""
    """OTLP collector over gRPC: "http://host:4317", "https://host:4317" or "unix:/absolute/path"; empty: no tracing."""
    sample_ratio: float = 1.0
    """Share of traces that are recorded, 0 to 1, of those that begin here; a client's own choice is followed."""

    def faults(self) -> list[str]:
        """See serving.config."""
        found = []
        if not 0 <= self.sample_ratio <= 1:
            found.append(f"sample_ratio = {self.sample_ratio}: must be between 0 and 1")
        url = urlsplit(self.endpoint)
        web = url.scheme in {"http", "https"} and url.netloc
        if self.endpoint and not web and not self.endpoint.startswith("unix:/"):
            found.append(f"endpoint = {self.endpoint!r}: expected http://HOST:PORT, https://HOST:PORT or unix:/PATH")
        return found


class _Tracing:
    """OpenTelemetry in use by this process."""

    def __init__(self, service: str, config: TracingConfig) -> None:
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({"service.name": service, "service.version": __version__})
        self.provider = TracerProvider(ParentBased(TraceIdRatioBased(config.sample_ratio)), resource)
        exporter = OTLPSpanExporter(config.endpoint, insecure=not config.endpoint.startswith("https:"))
        self.provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self.provider.get_tracer("maifs", __version__)
        self.propagator = TraceContextTextMapPropagator()

    def context(self) -> Any:
        """Of the current span, else of what a client sent."""
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        span = current_span.get()
        if span is not None:
            return set_span_in_context(span, Context())
        return self.propagator.extract(dict(received.get()), Context())


def configure_tracing(service: str, config: TracingConfig) -> None:
    """Begins to record spans where an endpoint is set; for the whole process, as logs are.

    Args:
        service: name of the program in traces.
        config: where to.
    """
    global _tracing
    _tracing = _Tracing(service, config) if config.endpoint else None


def close_tracing() -> None:
    """Sends what has not been sent, for at most some seconds; call it in a thread."""
    global _tracing
    if _tracing:
        _tracing.provider.force_flush(_FLUSH_MS)
        _tracing = None


@contextmanager
def span(name: str, kind: str = "INTERNAL", **attributes: str | int | float | bool) -> Iterator[None]:
    """Records the block as a span of the current trace; does nothing while tracing is off.

    Args:
        name: one of few: it must not hold what clients send.
        kind: "INTERNAL", "SERVER" or "CLIENT".
        attributes: facts; names are sent with "maifs." before them.
    """
    tracing = _tracing
    if tracing is None:
        yield
        return
    from opentelemetry.trace import SpanKind

    begun = tracing.tracer.start_span(
        name, tracing.context(), SpanKind[kind], {f"maifs.{key}": value for key, value in attributes.items()}
    )
    token = current_span.set(begun)
    try:
        yield
    except BaseException as error:
        _fail(begun, error)
        raise
    finally:
        begun.end()
        with suppress(ValueError):  # a generator that was closed in another context, which has a variable of its own
            current_span.reset(token)


def record(name: str, begin_s: float, duration_s: float, **attributes: str | int | float | bool) -> None:
    """Records a span that is over.

    Args:
        name: see `span`.
        begin_s: by `time.perf_counter`.
        duration_s: seconds.
        attributes: see `span`.
    """
    tracing = _tracing
    if tracing is None:
        return
    start_ns = time.time_ns() + int((begin_s - time.perf_counter()) * 1e9)
    facts = {f"maifs.{key}": value for key, value in attributes.items()}
    begun = tracing.tracer.start_span(name, tracing.context(), attributes=facts, start_time=start_ns)
    begun.end(start_ns + int(duration_s * 1e9))


def server_span(method: str, context: Any) -> Any:
    """A context manager around a call's handler: takes the client's trace context and records a span of the call."""
    received.set(headers_in(context.invocation_metadata()))
    current_span.set(None)
    return _call(method, context)


@contextmanager
def _call(method: str, context: Any) -> Iterator[None]:
    with span(method.removeprefix("/"), "SERVER"):
        try:
            yield
        except BaseException:
            reason = reason_in(context.trailing_metadata())
            current = current_span.get()
            if reason and current is not None:
                current.set_attribute("maifs.reason", reason.name)
            raise
        finally:
            if current := current_span.get():
                current.set_attribute("maifs.request_id", current_request_id.get())


def _fail(begun: Any, error: BaseException) -> None:
    from opentelemetry.trace import Status, StatusCode

    if isinstance(error, GeneratorExit):
        return  # its consumer has what it wanted
    if isinstance(error, MaifsError):
        begun.set_attribute("maifs.reason", error.reason.name)
    begun.set_status(Status(StatusCode.ERROR, type(error).__name__))
