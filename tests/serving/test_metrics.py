"""What every service shows of itself, scraped from a real process."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.errors import ExitCode
from serving.metrics.config import MetricsConfig
from serving.metrics.gpu import GpuMetrics
from serving.metrics.registry import ServiceMetrics
from tests.processes import ServiceProcess, socket_folder
from tests.scraping import Scrape, scrape, wait_value

TINY = "tests.serving.tiny_service"


@pytest.fixture(name="tiny", scope="module")
def _tiny() -> Iterator[tuple[ServiceProcess, Path]]:
    with socket_folder() as folder:
        arguments = ("--set", f"server.metrics.address=unix:{folder}/m.sock")
        with ServiceProcess(TINY, f"unix:{folder}/t.sock", *arguments, log=folder / "log") as process:
            yield process.wait_serving(), folder / "m.sock"


def raw(path: Path, request: bytes) -> bytes:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(request)
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def call(stub: llm_pb2_grpc.LlmServiceStub, text: str, timeout_s: float | None = None) -> None:
    with pytest.raises(grpc.RpcError):
        stub.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=[llm_pb2.ChatMessage(content=text)]), timeout=timeout_s)


def test_calls_are_counted_by_method_code_and_reason(tiny: tuple[ServiceProcess, Path]) -> None:
    process, path = tiny
    with grpc.insecure_channel(process.address) as channel:
        stub = llm_pb2_grpc.LlmServiceStub(channel)
        for _ in range(3):
            stub.GetModelInfo(llm_pb2.GetModelInfoRequest())
        call(stub, "known")
        call(stub, "bug")
        call(stub, "30", timeout_s=0.2)
        with pytest.raises(grpc.RpcError):
            list(stub.Generate(llm_pb2.GenerateRequest()))
    late = {"method": "WarmPrefix", "code": "DEADLINE_EXCEEDED"}
    shown = wait_value(path, 1, "maifs_requests_total", **late)
    count = {
        (labels["method"], labels["code"]): value for labels, value in shown.samples("maifs_requests_total") if value
    }
    assert count == {
        ("GetModelInfo", "OK"): 3,
        ("WarmPrefix", "RESOURCE_EXHAUSTED"): 1,
        ("WarmPrefix", "INTERNAL"): 1,
        ("WarmPrefix", "DEADLINE_EXCEEDED"): 1,
        ("Generate", "UNAVAILABLE"): 1,
    }
    reasons = {
        (labels["method"], labels["reason"]): value for labels, value in shown.samples("maifs_request_failures_total")
    }
    assert reasons == {
        ("WarmPrefix", "QUEUE_FULL"): 1, ("WarmPrefix", "INTERNAL"): 1, ("Generate", "ENGINE_DEAD"): 1,
    }  # fmt: skip
    assert shown.value("maifs_request_duration_seconds_count", method="WarmPrefix") == 3
    assert shown.value("maifs_request_duration_seconds_sum", method="WarmPrefix") >= 0.2
    assert shown.value("maifs_requests_open", method="WarmPrefix") == 0


def test_probes_are_not_counted(tiny: tuple[ServiceProcess, Path]) -> None:
    process, path = tiny
    assert process.health()
    assert not [labels for labels, _ in scrape(path).samples("maifs_requests_total") if labels["method"] == "Check"]


def test_state_process_and_pin_are_shown(tiny: tuple[ServiceProcess, Path]) -> None:
    shown = wait_value(tiny[1], 1, "maifs_serving")
    assert shown.value("maifs_gpu_pin", state="none") == 1
    assert shown.value("maifs_gpu_pin", state="violated") == 0
    assert shown.value("process_resident_memory_bytes") > 1e6
    assert shown.value("process_open_fds") > 3
    assert [value for _, value in shown.samples("maifs_build_info")] == [1]


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\n\r\n", b"200"),
        (b"GET /metrics?name=x HTTP/1.0\r\nHost: localhost\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /\xff HTTP/1.1\r\n\r\n", b"400"),
        (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
    ],
)
def test_only_get_metrics_is_answered(tiny: tuple[ServiceProcess, Path], request_line: bytes, status: bytes) -> None:
    try:
        answer = raw(tiny[1], request_line)
    except ConnectionResetError:  # the rest of an overlong head was not read
        answer = b"HTTP/1.1 400"
    assert answer.startswith(b"HTTP/1.1 " + status)


def test_the_socket_is_for_its_user_and_group_alone_and_goes_with_the_service(tmp_path: Path) -> None:
    with socket_folder() as folder:
        path = folder / "m.sock"
        arguments = ("--set", f"server.metrics.address=unix:{path}")
        with ServiceProcess(TINY, f"unix:{folder}/t.sock", *arguments, log=tmp_path / "log") as process:
            process.wait_serving()
            assert path.stat().st_mode & 0o777 == 0o660
            assert process.terminate() == ExitCode.OK
        assert not path.exists()


def test_tcp_on_loopback_is_served_and_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket_folder() as folder:
        arguments = ("--set", "server.metrics.address=127.0.0.1:0", "--set", "server.log_style=json")
        with ServiceProcess(TINY, f"unix:{folder}/t.sock", *arguments, log=tmp_path / "log") as process:
            process.wait_serving()
            port = Scrape.port_in(tmp_path / "log")
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/metrics")
            answer = connection.getresponse()
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            assert b"maifs_serving 1.0" in answer.read()
            connection.close()
            taken = ("--set", f"server.metrics.address=127.0.0.1:{port}")
            with ServiceProcess(TINY, f"unix:{folder}/u.sock", *taken, log=tmp_path / "log2") as second:
                assert second.process.wait(60) == ExitCode.USAGE
                assert "Cannot show metrics on 127.0.0.1" in (tmp_path / "log2").read_text()


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "192.0.2.1:9464", "nonsense", "unix:relative"])
def test_addresses_beyond_loopback_need_a_word(address: str) -> None:
    assert MetricsConfig(address).faults()


def test_with_that_word_other_addresses_are_taken() -> None:
    assert MetricsConfig("0.0.0.0:9464", beyond_loopback=True).faults() == []
    assert MetricsConfig("0.0.0.0", beyond_loopback=True).faults()
    assert MetricsConfig().faults() == []


async def test_two_services_in_one_process_share_no_count() -> None:
    first, second = ServiceMetrics(), ServiceMetrics()
    first.serving.set(1)
    assert b"maifs_serving 1.0" in await first.text()
    assert b"maifs_serving 0.0" in await second.text()


async def test_a_part_that_cannot_be_had_is_left_out_and_counted() -> None:
    metrics = ServiceMetrics()

    async def look() -> None:
        raise RuntimeError("no journal")

    metrics.on_look.append(look)
    assert b"maifs_metrics_errors_total 1.0" in await metrics.text()


def test_a_driver_that_does_not_answer_leaves_no_stale_figures() -> None:
    from serving.gpu.pin import PinState
    from serving.gpu.report import PinReport

    registry = CollectorRegistry()
    gpu = GpuMetrics(registry)
    gpu.look(PinReport(PinState.ENFORCED, "enforced", ("GPU-0",)))
    assert registry.get_sample_value("maifs_gpu_pin", {"state": "enforced"}) == 1
    assert registry.get_sample_value("maifs_gpu_memory_used_bytes", {"gpu": "GPU-0"}) is None
