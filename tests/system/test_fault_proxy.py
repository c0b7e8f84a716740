"""Envoy between coordinator and backends: aborts, delays and trickles, with the real coordinator as a process."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.errors import Reason
from serving.status import from_status
from tests.faults.envoy import Envoy
from tests.faults.stack import Plan, Stack, end_of, error_of, is_explained, running, wait_until

UNKNOWN, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE = 2, 8, 13, 14
SETTINGS = {"item_timeout_s": "3", "llm_timeout_s": "3", "max_timeouts": "3"}
LARGE = bytes(700_000)
"""Takes 20 s at 32 KiB/s."""


@pytest.fixture(name="shared", scope="module")
def _shared() -> Iterator[Stack]:
    with running(Plan(SETTINGS, proxied=True)) as stack:
        yield stack


@pytest.fixture(name="stack")
def _stack(shared: Stack) -> Iterator[Stack]:
    """Healthy before and after each test."""
    wait_until(lambda: is_explained(shared.analyze()), "a healthy report before the test")
    yield shared
    for backend in ("vision", "llm"):
        proxy_of(shared).heal(backend)


def proxy_of(stack: Stack) -> Envoy:
    assert stack.proxy
    return stack.proxy


@pytest.mark.parametrize("status", [INTERNAL, UNAVAILABLE])
def test_a_picture_whose_calls_all_break_is_sent_twice_and_may_be_tried_again(stack: Stack, status: int) -> None:
    proxy = proxy_of(stack)
    before = proxy.counter("http.vision.fault.aborts_injected")
    proxy.abort("vision", 100, status)
    error = error_of(stack.analyze())
    assert (error.reason, error.retry_after_s > 0) == (Reason.BACKEND_UNAVAILABLE, True)
    assert proxy.counter("http.vision.fault.aborts_injected") - before >= 2
    proxy.heal("vision")
    wait_until(lambda: is_explained(stack.analyze()), "a report after the fault")


@pytest.mark.parametrize("status", [INTERNAL, UNAVAILABLE])
def test_when_every_third_call_breaks_each_picture_ends_once_and_what_failed_may_be_tried_again(
    stack: Stack, status: int
) -> None:
    proxy_of(stack).abort("vision", 33, status)
    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(lambda number: stack.analyze(f"{number}".encode()), range(60)))
    failed = [error_of(events) for events in ends if end_of(events) == "error"]
    assert len(failed) < len(ends) / 2, "one picture in nine fails twice"
    assert {(error.reason, error.retry_after_s > 0) for error in failed} <= {(Reason.BACKEND_UNAVAILABLE, True)}


@pytest.mark.parametrize("status", [UNKNOWN, RESOURCE_EXHAUSTED, INTERNAL, UNAVAILABLE])
def test_a_language_model_whose_calls_break_costs_its_explanation_alone(stack: Stack, status: int) -> None:
    proxy_of(stack).abort("llm", 100, status)
    events = stack.analyze()
    assert end_of(events) == "report"
    report = events[-1].report
    assert report.HasField("explanation_error")
    assert len(report.tool_results) == 4
    assert report.explanation.summary


def test_a_picture_that_is_held_up_ends_at_the_time_limit_and_its_neighbours_go_on(stack: Stack) -> None:
    proxy = proxy_of(stack)
    proxy.delay("vision", 100, 30_000)
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(stack.analyze, b"late")
        held = "http.vision.fault.active_faults"
        wait_until(lambda: proxy.counter(held) > 0, "a call that is held back")
        proxy.delay("vision", 0)
        assert is_explained(stack.analyze(b"neighbour"))
        assert error_of(late.result(60)).reason is Reason.DEADLINE_EXCEEDED


def test_a_language_model_that_is_held_up_does_not_hold_up_the_verdict(stack: Stack) -> None:
    proxy_of(stack).delay("llm", 100, 30_000)
    events = stack.analyze(timeout_s=20)
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds == ["accepted", *["tool_result"] * 4, "verdict_reached", "report"]
    assert from_status(events[-1].report.explanation_error).reason is Reason.DEADLINE_EXCEEDED


def test_a_connection_that_trickles_ends_at_the_time_limit_and_holds_nothing(stack: Stack) -> None:
    proxy_of(stack).slow("vision", on=True)
    assert error_of(stack.analyze(LARGE)).reason is Reason.DEADLINE_EXCEEDED
    wait_until(lambda: stack.status().held_bytes == 0, "the picture's bytes are let go")
    proxy_of(stack).heal("vision")
    wait_until(lambda: end_of(stack.analyze(LARGE)) == "report", "a report on a large picture")


def test_connections_that_are_cut_are_made_again(stack: Stack) -> None:
    """A proxy that dies takes every connection with it, those of health included."""
    proxy = proxy_of(stack)
    proxy.delay("vision", 100, 30_000)
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(stack.analyze, LARGE)
        wait_until(lambda: proxy.counter("http.vision.fault.active_faults") > 0, "a call that is held back")
        proxy.restart()
        events = cut.result(60)
    assert end_of(events) == "report" or error_of(events).retry_after_s > 0
    wait_until(lambda: is_explained(stack.analyze()), "a report over new connections")
