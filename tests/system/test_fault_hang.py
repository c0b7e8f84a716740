"""Services that hang: SIGSTOP of each, which leaves their sockets open and their answers out."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import grpc
import pytest

from maifs.coordinator.v1 import coordinator_pb2
from serving.errors import Reason
from serving.status import from_status
from tests.faults.stack import Plan, Stack, end_of, error_of, is_explained, running, wait_until

SETTINGS = {"item_timeout_s": "2", "llm_timeout_s": "2", "max_timeouts": "2"}


@pytest.fixture(name="stack", scope="module")
def _stack() -> Iterator[Stack]:
    with running(Plan(SETTINGS)) as stack:
        yield stack


def explained_again(stack: Stack) -> None:
    wait_until(lambda: is_explained(stack.analyze()), "a report with the language model's part")


def test_a_language_model_that_hangs_costs_time_only_until_it_is_known_and_is_used_when_it_goes_on(
    stack: Stack,
) -> None:
    explained_again(stack)
    with stack.stopped("llm"):
        reasons = []
        for _ in range(4):
            events = stack.analyze(timeout_s=30)
            assert end_of(events) == "report"
            assert len(events[-1].report.tool_results) == 4
            reasons.append(from_status(events[-1].report.explanation_error).reason)
        late, refused = Reason.DEADLINE_EXCEEDED, Reason.BACKEND_UNAVAILABLE
        assert reasons == [late, late, refused, refused]
        assert any(backend.reason for backend in stack.status().backends)
    explained_again(stack)


def test_a_client_in_a_hurry_gets_its_report_while_the_language_model_hangs() -> None:
    with running(Plan({"llm_timeout_s": "120"})) as stack:
        explained_again(stack)
        with stack.stopped("llm"):
            events = stack.analyze(timeout_s=6)
    assert end_of(events) == "report"
    assert from_status(events[-1].report.explanation_error).reason is Reason.DEADLINE_EXCEEDED


def test_a_language_model_that_hangs_from_the_first_is_done_without() -> None:
    """It is not even heard what model it is: that counts, however long an answer may take."""
    with running(Plan({"llm_timeout_s": "120", "max_timeouts": "1"})) as stack:
        stack.processes["coordinator"].terminate()
        with stack.stopped("llm"):
            stack.start("coordinator").wait_serving()
            reasons = [from_status(stack.analyze()[-1].report.explanation_error).reason for _ in range(2)]
        assert reasons == [Reason.DEADLINE_EXCEEDED, Reason.BACKEND_UNAVAILABLE]
        explained_again(stack)


def test_a_vision_service_that_hangs_is_given_up_at_the_time_limit_and_used_when_it_goes_on(stack: Stack) -> None:
    explained_again(stack)
    with stack.stopped("vision"):
        for _ in range(2):
            assert error_of(stack.analyze()).reason is Reason.DEADLINE_EXCEEDED
        wait_until(
            lambda: stack.status().backends[0].state != coordinator_pb2.BACKEND_STATE_SERVING, "it is told to hang"
        )
    explained_again(stack)
    wait_until(
        lambda: stack.status().backends[0].state == coordinator_pb2.BACKEND_STATE_SERVING,
        "the vision service is trusted again",
    )
    assert stack.status().open_items_count == 0


def test_a_coordinator_that_hangs_leaves_the_client_its_deadline_and_goes_on(stack: Stack) -> None:
    with stack.stopped("coordinator"), pytest.raises(grpc.RpcError) as caught:
        stack.analyze(timeout_s=2)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    explained_again(stack)
    wait_until(lambda: stack.status().held_bytes == 0, "nothing is held for a client that is gone")


def test_a_hung_service_that_is_killed_and_started_anew_is_used(stack: Stack) -> None:
    stack.signal("vision", signal.SIGSTOP)
    assert error_of(stack.analyze()).reason is Reason.DEADLINE_EXCEEDED
    stack.processes["vision"].process.kill()
    stack.processes["vision"].process.wait(30)
    stack.start("vision").wait_serving()
    explained_again(stack)
