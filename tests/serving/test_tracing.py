"""Trace context and request ids through real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.errors import ExitCode
from serving.trace_context import headers_in
from serving.tracing import TracingConfig
from tests.processes import ServiceProcess, socket_folder
from tests.serving.observed import Observed, observed, picture
from tests.serving.otlp import Collector, Span

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
REQUEST_ID = "asked-by-a-test"
METADATA = (("traceparent", TRACEPARENT), ("x-request-id", REQUEST_ID))
TINY = "tests.serving.tiny_service"


@pytest.fixture(name="traced", scope="module")
def _traced() -> Iterator[tuple[Observed, list[Span]]]:
    """One picture through three processes with tracing on, after their end; the third is a service without a model."""
    with socket_folder() as folder, Collector(folder) as collector:
        tracing = f"server.tracing.endpoint={collector.endpoint}"
        arguments = ("--set", tracing)
        with (
            ServiceProcess(TINY, f"unix:{folder}/t.sock", *arguments, log=folder / "tiny.log") as tiny,
            observed(tiny.wait_serving().address, tracing, "llm_timeout_s=20") as where,
        ):
            analyze(where)
            for process in (where.coordinator, where.vision, tiny):
                assert process.terminate(60) == ExitCode.OK
            yield where, collector.spans


def analyze(where: Observed) -> None:
    with grpc.insecure_channel(where.coordinator.address) as channel:
        request = coordinator_pb2.AnalyzeRequest(image=image_pb2.Image(data=picture(5)))
        stub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        events = [response.event for response in stub.Analyze(request, metadata=METADATA, timeout=120)]
        assert events[-1].HasField("report")


def test_one_trace_reaches_from_the_client_through_three_processes(traced: tuple[Observed, list[Span]]) -> None:
    _, spans = traced
    ours = {span.span: span for span in spans if span.trace == TRACE}
    assert {span.service for span in ours.values()} == {"coordinator-service", "vision-service", "tiny-service"}
    roots = [span for span in ours.values() if span.parent not in ours]
    assert [(span.name, span.parent) for span in roots] == [("maifs.coordinator.v1.CoordinatorService/Analyze", PARENT)]
    assert all(span.attributes.get("maifs.request_id", REQUEST_ID) == REQUEST_ID for span in ours.values())


def test_stages_and_tools_are_spans_below_what_caused_them(traced: tuple[Observed, list[Span]]) -> None:
    _, spans = traced
    by_id = {span.span: span for span in spans}
    parents = {
        (span.service.partition("-")[0], span.name): by_id[span.parent].name
        for span in spans
        if span.trace == TRACE and span.parent in by_id
    }
    assert parents[("coordinator", "picture")] == "maifs.coordinator.v1.CoordinatorService/Analyze"
    assert parents[("coordinator", "queue")] == parents[("coordinator", "vision")] == "picture"
    assert parents[("coordinator", "explanation")] == "picture"
    assert parents[("coordinator", "language model")] == "explanation"
    assert parents[("vision", "maifs.vision.v1.VisionService/AnalyzeStream")] == "vision"
    for name in ("queue", "decode", "tool frequency", "tool noise", "tool watermark", "tool spatial"):
        assert parents[("vision", name)] == "maifs.vision.v1.VisionService/AnalyzeStream", name
    assert parents[("tiny", "maifs.llm.v1.LlmService/Generate")] == "language model"


def test_lines_of_a_request_have_its_id_and_its_trace_in_all_services(traced: tuple[Observed, list[Span]]) -> None:
    where, _ = traced
    for service, method in (("coordinator", "Analyze"), ("vision", "AnalyzeStream")):
        lines = [entry for entry in where.log(service) if entry["message"] == "call"]
        ours = [entry for entry in lines if entry["method"].endswith(f"/{method}")]
        assert ours
        assert {(entry["request_id"], entry["trace_id"]) for entry in ours} == {(REQUEST_ID, TRACE)}


def test_a_trace_passes_through_a_service_that_records_none() -> None:
    with observed() as where:
        analyze(where)
        lines = [entry for entry in where.log("vision") if entry.get("request_id") == REQUEST_ID]
        deadline = time.monotonic() + 60
        while not lines and time.monotonic() < deadline:
            time.sleep(0.05)
            lines = [entry for entry in where.log("vision") if entry.get("request_id") == REQUEST_ID]
        assert lines
        assert {entry["trace_id"] for entry in lines} == {TRACE}


def test_a_collector_that_is_away_keeps_nobody(tmp_path: Path) -> None:
    with socket_folder() as folder:
        arguments = ("--set", f"server.tracing.endpoint=unix:{folder}/nobody.sock")
        with ServiceProcess(TINY, f"unix:{folder}/t.sock", *arguments, log=tmp_path / "log") as tiny:
            tiny.wait_serving()
            with grpc.insecure_channel(tiny.address) as channel:
                llm_pb2_grpc.LlmServiceStub(channel).GetModelInfo(llm_pb2.GetModelInfoRequest(), timeout=60)
            assert tiny.terminate(60) == ExitCode.OK


@pytest.mark.parametrize(
    "traceparent",
    ["", "00-abc", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"{TRACEPARENT}\n", "x" * 9999],
)
def test_a_trace_context_that_is_not_well_formed_is_left_out(traceparent: str) -> None:
    assert headers_in([("traceparent", traceparent), ("tracestate", "a=b")]) == ()


def test_the_state_of_a_trace_goes_with_it_unless_it_is_overlong() -> None:
    parent = ("traceparent", TRACEPARENT)
    assert headers_in([parent, ("tracestate", "a=b")]) == (parent, ("tracestate", "a=b"))
    assert headers_in([parent, ("tracestate", "x" * 600)]) == (parent,)


def test_faults_of_the_settings_are_named() -> None:
    assert TracingConfig().faults() == []
    assert TracingConfig("unix:/run/otlp.sock").faults() == []
    assert TracingConfig("https://collector:4317", 0.1).faults() == []
    assert len(TracingConfig("collector:4317", 2.0).faults()) == 2
