"""The life of a service, with real processes on UNIX sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.errors import ExitCode
from tests.processes import ServiceProcess, socket_folder

TINY = "tests.serving.tiny_service"


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder


@pytest.fixture(name="tiny", scope="module")
def _tiny() -> Iterator[ServiceProcess]:
    with socket_folder() as folder, ServiceProcess(TINY, f"unix:{folder}/t.sock", log=folder / "log") as process:
        yield process.wait_serving()


def stub(process: ServiceProcess) -> llm_pb2_grpc.LlmServiceStub:
    return llm_pb2_grpc.LlmServiceStub(grpc.insecure_channel(process.address))


def warm(text: str) -> llm_pb2.WarmPrefixRequest:
    return llm_pb2.WarmPrefixRequest(messages=[llm_pb2.ChatMessage(content=text)])


def info_of(error: grpc.RpcError) -> error_details_pb2.ErrorInfo:
    status = rpc_status.from_call(error)
    infos = [detail for detail in status.details if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == 1
    found = error_details_pb2.ErrorInfo()
    infos[0].Unpack(found)
    return found


def test_health_turns_serving_only_after_start(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", "--set", "start_s=1.5", log=folder / "log") as process:
        seen = set()
        end = time.monotonic() + 30
        while health_pb2.HealthCheckResponse.SERVING not in seen and time.monotonic() < end:
            seen.add(process.health())
        assert health_pb2.HealthCheckResponse.NOT_SERVING in seen
        assert process.terminate() == ExitCode.OK


def test_sigterm_during_a_long_start_ends_the_process(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", "--set", "start_s=600", log=folder / "log") as process:
        while process.health() != health_pb2.HealthCheckResponse.NOT_SERVING:
            time.sleep(0.05)
        assert process.terminate(10) == ExitCode.OK


def test_a_call_in_progress_ends_well_when_the_service_drains(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", log=folder / "log") as process:
        process.wait_serving()
        answers: list[object] = []
        call = threading.Thread(target=lambda: answers.append(stub(process).WarmPrefix(warm("1.0"))))
        call.start()
        time.sleep(0.3)
        assert process.terminate() == ExitCode.OK
        call.join(5)
        assert answers == [llm_pb2.WarmPrefixResponse(prompt_tokens_count=1)]
        assert "freed" in process.log.read_text()
        assert not (folder / "t.sock").exists()


def test_a_second_process_on_the_same_socket_is_refused(tiny: ServiceProcess, folder: Path) -> None:
    with ServiceProcess(TINY, tiny.address, log=folder / "log") as second:
        assert second.process.wait(30) == ExitCode.USAGE
        assert "Another process is serving" in (folder / "log").read_text()
    assert tiny.health() == health_pb2.HealthCheckResponse.SERVING


def test_a_socket_left_by_a_killed_process_is_taken_over(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", log=folder / "log") as first:
        first.wait_serving()
        first.process.kill()
        first.process.wait()
    assert (folder / "t.sock").exists()
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", log=folder / "log2") as second:
        second.wait_serving()


def test_a_tcp_port_in_use_is_refused(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with ServiceProcess(TINY, address, "--insecure", log=folder / "log") as process:
            assert process.process.wait(30) == ExitCode.USAGE
            assert "Cannot listen" in (folder / "log").read_text()


@pytest.mark.parametrize("address", ["0.0.0.0:7000", "unix:relative.sock", "nonsense", "unix:/" + "x" * 120])
def test_an_address_that_must_not_be_served_is_refused(address: str, folder: Path) -> None:
    with ServiceProcess(TINY, address, log=folder / "log") as process:
        assert process.process.wait(30) == ExitCode.USAGE
        assert "server.address" in (folder / "log").read_text()


def test_a_failed_start_exits_with_the_reasons_code(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", "--set", "fail_start=yes", log=folder / "log") as process:
        assert process.process.wait(30) == ExitCode.USAGE
        entries = [json.loads(line) for line in (folder / "log").read_text().splitlines()]
        assert any(entry.get("reason") == "MODEL_UNUSABLE" and "name another" in entry["message"] for entry in entries)


def test_a_service_that_can_no_longer_serve_exits_with_the_reasons_code(folder: Path) -> None:
    with ServiceProcess(TINY, f"unix:{folder}/t.sock", "--set", "die_after_s=0.2", log=folder / "log") as process:
        assert process.process.wait(30) == ExitCode.UNREACHABLE


def test_a_known_error_carries_its_reason_and_the_time_to_wait(tiny: ServiceProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(tiny).WarmPrefix(warm("known"))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (info_of(caught.value).reason, info_of(caught.value).domain) == ("QUEUE_FULL", "maifs")


def test_a_bug_is_answered_as_internal_without_its_details_and_logged_with_them(tiny: ServiceProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(tiny).WarmPrefix(warm("bug"))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "oops" not in str(caught.value.details())
    assert info_of(caught.value).reason == "INTERNAL"
    assert "ZeroDivisionError: oops" in tiny.log.read_text()


@pytest.mark.parametrize("method", ["WarmPrefix", "Generate"])
def test_text_that_is_not_utf8_is_answered_with_the_field(tiny: ServiceProcess, method: str) -> None:
    data = warm("marker").SerializeToString().replace(b"marker", b"\xff\xfeker!")
    with grpc.insecure_channel(tiny.address) as channel:
        make: Any = channel.unary_stream if method == "Generate" else channel.unary_unary
        call = make(f"/maifs.llm.v1.LlmService/{method}", request_serializer=lambda request: request)
        with pytest.raises(grpc.RpcError) as caught:
            list(call(data, timeout=10))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(caught.value).reason == "INVALID_REQUEST"
    assert "messages[0].content" in str(caught.value.details())
    assert tiny.health() == health_pb2.HealthCheckResponse.SERVING


def test_an_error_in_the_middle_of_a_stream_leaves_what_came_before(tiny: ServiceProcess) -> None:
    call = stub(tiny).Generate(llm_pb2.GenerateRequest())
    assert next(call).delta == "one"
    with pytest.raises(grpc.RpcError) as caught:
        next(call)
    assert info_of(caught.value).reason == "ENGINE_DEAD"


@pytest.mark.parametrize(("sent", "kept"), [("abc-123", True), ("bad id {with} blanks", False)])
def test_the_callers_request_id_is_in_the_handler_and_in_every_log_line(
    tiny: ServiceProcess, sent: str, kept: bool
) -> None:
    answer = stub(tiny).GetModelInfo(llm_pb2.GetModelInfoRequest(), metadata=(("x-request-id", sent),))
    assert (answer.model == sent) is kept
    lines = [json.loads(line) for line in tiny.log.read_text().splitlines() if answer.model in line]
    assert {line["message"] for line in lines} == {"asked", "call"}


def test_reflection_lists_the_service(tiny: ServiceProcess) -> None:
    reflection = reflection_pb2_grpc.ServerReflectionStub(grpc.insecure_channel(tiny.address))
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    names = {s.name for s in next(reflection.ServerReflectionInfo(iter([request]))).list_services_response.service}
    assert {"maifs.llm.v1.LlmService", "grpc.health.v1.Health"} <= names


def test_a_message_above_the_limit_is_refused_and_the_service_lives_on(tiny: ServiceProcess) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        stub(tiny).WarmPrefix(warm("x" * (17 * 1024 * 1024)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert tiny.health() == health_pb2.HealthCheckResponse.SERVING
