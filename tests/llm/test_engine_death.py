"""Sudden deaths: the engine's process is killed, and the service itself is."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterable

import pytest
from grpc import StatusCode
from grpc.aio import AioRpcError

from maifs.llm.v1 import llm_pb2
from serving.errors import ExitCode
from tests.llm.engine_process import connected, descendants, engine_of, reason_of, start_llm, user, wait_gone
from tests.processes import socket_folder

pytestmark = pytest.mark.engine


async def drain(call: AsyncIterable[object]) -> None:
    """Reads to the end."""
    async for _ in call:
        pass


async def test_death_of_the_engine_ends_calls_with_a_reason_and_the_service_with_an_exit_code() -> None:
    with socket_folder() as folder, start_llm(folder) as service:
        service.wait_serving(180)
        async with connected(service) as stub:
            request = llm_pb2.GenerateRequest(messages=[user("Write a long story.")], max_tokens_count=1000)
            call = stub.Generate(request, timeout=30)
            await anext(aiter(call))
            engine = engine_of(service.process.pid)
            assert engine
            os.kill(engine, signal.SIGKILL)
            with pytest.raises(AioRpcError) as caught:
                await drain(call)
        assert caught.value.code() is StatusCode.UNAVAILABLE
        assert reason_of(caught.value)[0] == "ENGINE_DEAD"
        assert service.process.wait(15) == ExitCode.UNREACHABLE


def test_no_process_outlives_a_service_that_is_killed_while_it_starts() -> None:
    with socket_folder() as folder, start_llm(folder) as service:
        end = time.monotonic() + 120
        while engine_of(service.process.pid) is None and time.monotonic() < end:
            assert service.process.poll() is None, service.log.read_text()
            time.sleep(0.05)
        processes = descendants(service.process.pid)
        service.process.kill()
        assert wait_gone(processes, 5) == []
