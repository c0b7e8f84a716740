"""SIGTERM and a new start of each service under load: what is in work ends, and nothing is lost."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from serving.errors import MaifsError
from serving.status import from_rpc_error
from tests.faults.stack import Plan, Stack, end_of, error_of, is_explained, running, wait_until

CLIENTS = 4


@pytest.fixture(name="stack", scope="module")
def _stack() -> Iterator[Stack]:
    with running(Plan(vision_s=0.5, llm_s=0.5)) as stack:
        wait_until(lambda: is_explained(stack.analyze()), "a first report")
        yield stack


@pytest.mark.parametrize("name", ["vision", "llm", "coordinator"])
def test_what_is_in_work_when_a_service_is_told_to_stop_ends_well_at_the_first_try(stack: Stack, name: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        under_way = [pool.submit(stack.analyze, f"{name} {number}".encode()) for number in range(4)]
        wait_until(lambda: at_work(stack, name) == 4, "all are at work there")
        code = stack.processes[name].terminate(60)
        ends = [future.result(60) for future in under_way]
    stack.start(name).wait_serving()
    assert code == 0, stack.log(name)
    assert [end_of(events) for events in ends] == ["report"] * 4
    if name != "vision":  # the model may be asked when the vision service is already gone
        assert all(is_explained(events) for events in ends)
    wait_until(lambda: is_explained(stack.analyze()), "a report after the restart")


def at_work(stack: Stack, name: str) -> int:
    status = stack.status()
    if name == "coordinator":
        return status.open_items_count
    return next(backend.open_calls_count for backend in status.backends if backend.name == name)


def test_clients_that_try_again_as_they_are_told_get_every_report_while_each_service_is_restarted(
    stack: Stack,
) -> None:
    over = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(keep_asking, stack, number, over) for number in range(CLIENTS)]
        try:
            for name in ("vision", "llm", "coordinator"):
                assert stack.processes[name].terminate(60) == 0, stack.log(name)
                stack.start(name).wait_serving()
                wait_until(lambda: is_explained(stack.analyze()), f"a report after {name} is back")
        finally:
            over.set()
        seen = sum((client.result(120) for client in clients), Counter[str]())
    assert seen["report"] >= 2 * CLIENTS, seen
    assert seen["final error"] == 0, seen


def keep_asking(stack: Stack, number: int, over: threading.Event) -> Counter[str]:
    """A client that sends a picture again for as long as it is told that this may help."""
    seen: Counter[str] = Counter()
    while not over.is_set():
        error = ask(stack, f"client {number}, picture {seen['report']}".encode())
        if error is None:
            seen["report"] += 1
        elif error.reason.code is grpc.StatusCode.UNAVAILABLE:
            seen["again"] += 1
            over.wait(error.retry_after_s or 0.5)
        else:
            seen["final error"] += 1
            seen[str(error)] += 1
    return seen


def ask(stack: Stack, data: bytes) -> MaifsError | None:
    try:
        events = stack.analyze(data)
    except grpc.RpcError as error:
        return from_rpc_error(error, "the coordinator")  # type: ignore[arg-type]
    return None if end_of(events) == "report" else error_of(events)
