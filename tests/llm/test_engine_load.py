"""Cancellation, deadlines, admission and priority, with the real engine."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

import grpc
import psutil
import pytest
from grpc.aio import AioRpcError

from maifs.llm.v1 import llm_pb2
from tests.llm import engine_process
from tests.llm.engine_process import LONG, Stub, ask, reason_of, user, wait_idle, wait_load
from tests.processes import ServiceProcess

pytestmark = pytest.mark.engine
Call: TypeAlias = "grpc.aio.UnaryStreamCall[llm_pb2.GenerateRequest, llm_pb2.GenerateResponse]"


async def test_cancelling_frees_the_engine(stub: Stub) -> None:
    before = (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load
    call = await running_call(stub)
    await wait_load(stub, lambda load: load.running_requests_count == 1 and load.kv_cache_usage_ratio > 0)
    call.cancel()
    await wait_idle(stub)
    after = (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load
    assert after.completed_requests_count == before.completed_requests_count, "it did not run to its end"
    assert after.kv_cache_usage_ratio == 0


async def test_cancelling_a_waiting_request_takes_it_out_of_the_engines_queue(stub: Stub) -> None:
    running = [await running_call(stub) for _ in range(engine_process.MAX_RUNNING)]
    waiting = stub.Generate(llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000, priority=1))
    await wait_load(stub, lambda load: load.waiting_requests_count == 1)
    waiting.cancel()
    await wait_load(stub, lambda load: load.waiting_requests_count == 0)
    assert (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load.running_requests_count == len(running)
    for call in running:
        call.cancel()


async def test_deadline_frees_the_engine(stub: Stub) -> None:
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000), timeout_s=0.4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await wait_idle(stub)


async def test_more_than_the_queue_holds_is_refused_with_a_delay_and_the_rest_is_answered(stub: Stub) -> None:
    request = llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=30)
    outcomes = await asyncio.gather(*(ask(stub, request) for _ in range(7)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AioRpcError)]
    assert len(refused) == 7 - engine_process.MAX_RUNNING - engine_process.MAX_QUEUED
    for error in refused:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        reason, retry_s = reason_of(error)
        assert reason == "QUEUE_FULL"
        assert retry_s > 0
    assert len({outcome.text for outcome in outcomes if isinstance(outcome, engine_process.Answer)}) == 1


async def test_lower_priority_number_runs_earlier(stub: Stub) -> None:
    running = [await running_call(stub) for _ in range(engine_process.MAX_RUNNING)]
    started: list[str] = []

    async def run(name: str, priority: int) -> None:
        request = llm_pb2.GenerateRequest(messages=[user(f"{name} {LONG}")], max_tokens_count=2, priority=priority)
        async for _ in stub.Generate(request):
            started.append(name)

    patient = asyncio.ensure_future(run("patient", 5))
    await wait_load(stub, lambda load: load.waiting_requests_count == 1)
    urgent = asyncio.ensure_future(run("urgent", 0))
    await wait_load(stub, lambda load: load.waiting_requests_count == 2)
    running[0].cancel()
    await asyncio.gather(patient, urgent)
    running[1].cancel()
    assert started.index("urgent") < started.index("patient")


async def running_call(stub: Stub) -> Call:
    """A long generation that has begun."""
    call = stub.Generate(llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000))
    await anext(aiter(call))
    return call


async def test_flood_is_refused_before_it_costs_memory(service: ServiceProcess, stub: Stub) -> None:
    process = psutil.Process(service.process.pid)
    request = llm_pb2.GenerateRequest(messages=[user("tree " * 1000)], max_tokens_count=64)
    await ask(stub, request)
    before = process.memory_info().rss
    outcomes = await asyncio.gather(*(ask(stub, request) for _ in range(1000)), return_exceptions=True)
    grown_mib = (process.memory_info().rss - before) / 2**20
    refused = [reason_of(outcome)[0] for outcome in outcomes if isinstance(outcome, AioRpcError)]
    assert set(refused) == {"QUEUE_FULL"}
    assert len(refused) > 900
    assert grown_mib < 100
