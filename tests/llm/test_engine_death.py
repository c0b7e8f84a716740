"""Sudden deaths: the engine's process is killed, one of its workers is, and the service itself is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterable, Callable

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError
from grpc_health.v1 import health_pb2, health_pb2_grpc

from maifs.llm.v1 import llm_pb2
from serving.channel import open_channel
from serving.errors import ExitCode
from tests.llm.engine_process import (
    LONG,
    connected,
    descendants,
    engine_of,
    reason_of,
    start_llm,
    user,
    wait_gone,
    workers_of,
)
from tests.processes import ServiceProcess, socket_folder

pytestmark = pytest.mark.engine


async def drain(call: AsyncIterable[object]) -> None:
    """Reads to the end."""
    async for _ in call:
        pass


async def statuses(watch: AsyncIterable[health_pb2.HealthCheckResponse], begun: asyncio.Event) -> list[int]:
    """What health said until the service ended; `begun` is set when it has said something."""
    found: list[int] = []
    with contextlib.suppress(AioRpcError):
        async for response in watch:
            found.append(response.status)
            begun.set()
    return found


async def assert_death_is_survived(service: ServiceProcess, victim: Callable[[int], int | None]) -> None:
    """Kills a process of a service at work: its call ends with a reason, it exits with a code and leaves no process."""
    async with open_channel(service.address) as channel, connected(service) as stub:
        begun = asyncio.Event()
        health: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(channel)
        watch = asyncio.ensure_future(statuses(health.Watch(health_pb2.HealthCheckRequest()), begun))
        await asyncio.wait_for(begun.wait(), 60)
        request = llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000)
        call = stub.Generate(request, timeout=60)
        await anext(aiter(call))
        processes = descendants(service.process.pid)
        pid = victim(service.process.pid)
        assert pid in processes
        os.kill(int(pid or 0), signal.SIGKILL)
        with pytest.raises(AioRpcError) as caught:
            await drain(call)
        assert await watch == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]
    assert caught.value.code() is StatusCode.UNAVAILABLE
    assert reason_of(caught.value)[0] == "ENGINE_DEAD"
    assert service.process.wait(30) == ExitCode.UNREACHABLE
    assert wait_gone(processes, 5) == []


async def test_death_of_the_engine_ends_calls_with_a_reason_and_the_service_with_an_exit_code() -> None:
    with socket_folder() as folder, start_llm(folder) as service:
        await assert_death_is_survived(service.wait_serving(180), engine_of)


async def test_death_of_a_tensor_parallel_worker_ends_all_the_same() -> None:
    with socket_folder() as folder, start_llm(folder, tensor_parallel_size=3) as service:
        service.wait_serving(300)
        assert len(workers_of(service.process.pid)) == 3
        await assert_death_is_survived(service, lambda pid: workers_of(pid)[1])


def test_no_process_outlives_a_service_that_is_killed_while_it_starts() -> None:
    with socket_folder() as folder, start_llm(folder) as service:
        end = time.monotonic() + 120
        while engine_of(service.process.pid) is None and time.monotonic() < end:
            assert service.process.poll() is None, service.log.read_text()
            time.sleep(0.05)
        processes = descendants(service.process.pid)
        service.process.kill()
        assert wait_gone(processes, 5) == []
