"""The language model dies in the middle of an analysis; real processes, the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc, report_pb2
from serving.channel import MAX_MESSAGE_BYTES
from tests.model import prepared_model
from tests.processes import ServiceProcess, socket_folder

pytestmark = pytest.mark.engine


@pytest.fixture(name="services")
def _services() -> Iterator[tuple[ServiceProcess, ServiceProcess]]:
    """The coordinator and the LLM service behind it; the vision service runs too."""
    model = prepared_model()
    with socket_folder() as folder:
        vision, llm = f"unix:{folder}/v.sock", f"unix:{folder}/l.sock"
        settings = ("--set", f"vision_address={vision}", "--set", f"llm_address={llm}")
        with (
            ServiceProcess("vision_service", vision, log=folder / "v.log") as vision_process,
            ServiceProcess("llm_service", llm, "--set", f"model={model}", log=folder / "l.log") as llm_process,
            ServiceProcess("coordinator", f"unix:{folder}/c.sock", *settings, log=folder / "c.log") as coordinator,
        ):
            vision_process.wait_serving()
            coordinator.wait_serving()
            yield coordinator, llm_process.wait_serving(300)


def test_killing_the_llm_service_in_mid_analysis_gives_a_complete_report_without_its_explanation(
    services: tuple[ServiceProcess, ServiceProcess], picture: Path
) -> None:
    coordinator, llm = services
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)]
    stub = coordinator_pb2_grpc.CoordinatorServiceStub(grpc.insecure_channel(coordinator.address, options=options))
    request = coordinator_pb2.AnalyzeRequest(
        image=image_pb2.Image(data=picture.read_bytes()), options=coordinator_pb2.AnalyzeOptions(skip_cache=True)
    )
    healthy = [response.event for response in stub.Analyze(request, timeout=120)][-1].report
    assert not healthy.HasField("explanation_error"), healthy.explanation_error
    assert healthy.explanation.model

    seen: list[str] = []
    report: report_pb2.Report | None = None
    for response in stub.Analyze(request, timeout=120):
        seen.append(str(response.event.WhichOneof("event")))
        if seen[-1] == "verdict_reached":
            llm.process.kill()
        if seen[-1] == "report":
            report = response.event.report
    assert seen == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    assert report is not None
    assert report.HasField("explanation_error")
    assert report.verdict == healthy.verdict
    assert report.probability == pytest.approx(healthy.probability)
    assert len(report.tool_results) == 4
    sentences = [*report.explanation.summary, *(s for r in report.explanation.tool_readings for s in r.sentences)]
    assert sentences
    assert {sentence.author for sentence in sentences} == {report_pb2.AUTHOR_RULES}
