"""An OTLP collector on a UNIX socket that keeps the spans it gets."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc


@dataclass(frozen=True)
class Span:
    """One span with the program that sent it."""

    service: str
    name: str
    trace: str
    span: str
    parent: str
    attributes: dict[str, str]


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """To be entered with `with`."""

    def __init__(self, folder: Path) -> None:
        self.endpoint = f"unix:{folder}/otlp.sock"
        self._lock = threading.Lock()
        self._spans: list[Span] = []
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self._server.add_insecure_port(self.endpoint)

    def __enter__(self) -> Collector:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()

    @property
    def spans(self) -> list[Span]:
        """Those that came so far."""
        with self._lock:
            return list(self._spans)

    def Export(self, request: Any, context: Any) -> Any:
        found = [
            Span(
                service=_facts(resource.resource.attributes)["service.name"],
                name=span.name,
                trace=span.trace_id.hex(),
                span=span.span_id.hex(),
                parent=span.parent_span_id.hex(),
                attributes=_facts(span.attributes),
            )
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
        with self._lock:
            self._spans += found
        return trace_service_pb2.ExportTraceServiceResponse()


def _facts(attributes: Any) -> dict[str, str]:
    return {entry.key: entry.value.string_value for entry in attributes}
