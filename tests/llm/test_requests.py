"""Requests and admission, without an engine."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from llm_service.admission import Admission
from llm_service.requests import Constraint, Generation, Message, Role, check_messages
from serving.errors import MaifsError, Reason

HELLO = (Message(Role.USER, "hello"),)


def test_every_fault_of_a_request_is_named_at_once() -> None:
    request = Generation(
        HELLO,
        max_tokens_count=99,
        temperature=float("nan"),
        top_p=1.5,
        seed=-2,
        stop=("",),
        top_logprobs_count=21,
        constraint=Constraint(regex="a", choices=("b",)),
    )
    names = r"max_tokens_count.*temperature.*top_p.*seed.*top_logprobs_count.*stop.*choices and regex"
    with pytest.raises(MaifsError, match=rf"7 fault\(s\).*{names}") as caught:
        request.check(max_output_tokens_count=50)
    assert caught.value.reason is Reason.INVALID_REQUEST


@pytest.mark.parametrize(
    ("constraint", "fault"),
    [
        (Constraint(choices=("a",) * 257), "257 texts"),
        (Constraint(choices=("a", "")), "1 to 1024 characters"),
        (Constraint(choices=("x" * 1025,)), "1 to 1024 characters"),
        (Constraint(json_schema="{}", grammar="root ::= 'a'"), "json_schema and grammar"),
    ],
)
def test_fault_of_a_constraint_is_named(constraint: Constraint, fault: str) -> None:
    with pytest.raises(MaifsError, match=fault):
        Generation(HELLO, constraint=constraint).check(50)


def test_limits_themselves_are_allowed() -> None:
    limits = Constraint(choices=("x" * 1024,) * 256)
    Generation(
        HELLO, 50, temperature=2.0, top_p=1.0, seed=0, stop=("x" * 256,) * 8, top_logprobs_count=20, constraint=limits
    ).check(50)
    Generation(HELLO, top_logprobs_count=0).check(50)
    Generation(HELLO).check(50)


def test_conversation_needs_a_message_and_has_a_longest_length() -> None:
    for messages in ((), HELLO * 1025):
        with pytest.raises(MaifsError, match="messages"):
            check_messages(messages)


def test_place_is_given_back_and_only_answers_count_as_completed() -> None:
    admission = Admission(max_running=1, max_queued=0)
    with admission.admit():
        assert admission.load().active_requests_count == 1
        admission.completed(7)
    with pytest.raises(ZeroDivisionError), admission.admit():
        raise ZeroDivisionError
    load = admission.load()
    assert (load.active_requests_count, load.completed_requests_count, load.output_tokens_count) == (0, 1, 7)


def test_running_and_waiting_places_are_limited_together() -> None:
    admission = Admission(max_running=2, max_queued=1)
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(admission.admit())
        with pytest.raises(MaifsError) as caught, admission.admit():
            pass
        assert caught.value.reason is Reason.QUEUE_FULL
        assert 0.2 <= caught.value.retry_after_s <= 30
    with admission.admit():
        assert admission.load().active_requests_count == 1
