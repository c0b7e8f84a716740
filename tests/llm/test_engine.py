"""The service with the real engine: one for all tests here, stopped by the last of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import grpc
import pytest
from grpc.aio import AioRpcError

from maifs.llm.v1 import llm_pb2
from tests.llm import engine_process
from tests.llm.engine_process import Stub, ask, connected, reason_of, start_llm, system, user
from tests.processes import ServiceProcess, socket_folder

pytestmark = pytest.mark.engine

LONG = "Write a very long story about a river, a mill and a lighthouse."
VERDICT_SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["authentic", "manipulated"]},
        "reasons": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 1, "maxItems": 2},
    },
    "required": ["verdict", "reasons"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    with socket_folder() as folder, start_llm(folder) as process:
        yield process.wait_serving(180)


@pytest.fixture
async def stub(service: ServiceProcess) -> AsyncIterator[Stub]:
    async with connected(service) as stub:
        yield stub
        await engine_process.wait_idle(stub)


async def test_model_info_tells_what_was_loaded(stub: Stub) -> None:
    info = await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())
    assert (info.architecture, info.dtype, info.quantization) == ("LlamaForCausalLM", "bfloat16", "")
    layout = info.layout
    assert (layout.attention_heads_count, layout.kv_heads_count) == (9, 3)
    assert (layout.padded_attention_heads_count, layout.padded_kv_heads_count) == (0, 0)
    assert (layout.tensor_parallel_size, layout.pipeline_parallel_size, len(layout.devices)) == (1, 1, 1)
    assert info.limits.max_model_len_tokens_count == engine_process.MAX_MODEL_LEN
    assert info.limits.max_running_requests_count == engine_process.MAX_RUNNING
    assert info.prefix_caching
    assert info.engine_version.startswith("vllm ")
    assert info.load.completed_requests_count >= 1, "the warm-up answer counts"


async def test_deltas_end_with_exactly_one_finish_that_carries_usage_and_phases(stub: Stub) -> None:
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user("What is the capital of France?")]))
    assert answer.last_is_finish
    assert "Paris" in answer.text
    assert len(answer.deltas) > 2
    finish = answer.finish
    assert finish.reason == llm_pb2.FINISH_REASON_STOP
    assert len(answer.deltas) <= finish.usage.output_tokens_count
    phases = {timing.phase: timing.duration.ToNanoseconds() / 1e9 for timing in finish.timings}
    assert set(phases) == {"queue", "prefill", "decode", "total"}
    assert phases["prefill"] > 0
    assert phases["decode"] > 0
    assert phases["total"] >= phases["queue"] + phases["prefill"] + phases["decode"] - 0.01


async def test_token_limit_ends_with_length(stub: Stub) -> None:
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=5))
    assert answer.finish.reason == llm_pb2.FINISH_REASON_LENGTH
    assert answer.finish.usage.output_tokens_count == 5


async def test_greedy_answers_and_seeded_samples_repeat(stub: Stub) -> None:
    greedy = llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=24)
    seeded = llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=24, temperature=1.0, top_p=0.9, seed=7)
    other = llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=24, temperature=1.0, top_p=0.9, seed=8)
    texts = [(await ask(stub, request)).text for request in (greedy, greedy, seeded, seeded, other)]
    assert texts[0] == texts[1]
    assert texts[2] == texts[3]
    assert texts[2] != texts[4]


async def test_json_answer_follows_its_schema(stub: Stub) -> None:
    request = llm_pb2.GenerateRequest(
        messages=[user("Is a photo with two copied trees authentic or manipulated? Give reasons.")],
        max_tokens_count=160,
        json_schema=json.dumps(VERDICT_SCHEMA),
    )
    answer = await ask(stub, request)
    assert answer.finish.reason == llm_pb2.FINISH_REASON_STOP
    table = json.loads(answer.text)
    assert set(table) == {"verdict", "reasons"}
    assert table["verdict"] in {"authentic", "manipulated"}
    assert 1 <= len(table["reasons"]) <= 2
    assert all(len(reason) <= 40 for reason in table["reasons"])


async def test_stop_text_ends_the_answer_and_is_not_in_it(stub: Stub) -> None:
    question = llm_pb2.GenerateRequest(messages=[user("What is the capital of France?")], stop=["Paris"])
    answer = await ask(stub, question)
    assert answer.finish.reason == llm_pb2.FINISH_REASON_STOP
    assert "Paris" not in answer.text


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[]",
        '{"type": "strng"}',
        '{"type": 5}',
        '{"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}',
        '{"type": "integer", "multipleOf": 3}',
        '{"type": "string", "pattern": "(["}',
        "[" * 5000,
    ],
)
async def test_schema_that_cannot_be_used_is_refused(stub: Stub, schema: str) -> None:
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, llm_pb2.GenerateRequest(messages=[user("hi")], json_schema=schema))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(caught.value)[0] == "INVALID_JSON_SCHEMA"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (llm_pb2.GenerateRequest(), "messages"),
        (llm_pb2.GenerateRequest(messages=[llm_pb2.ChatMessage(content="hi")]), "messages[0].role"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], max_tokens_count=-1), "max_tokens_count"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], max_tokens_count=100_000), "max_tokens_count"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], temperature=float("nan")), "temperature"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], temperature=2.5), "temperature"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], top_p=0.0), "top_p"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], seed=-1), "seed"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], stop=["x"] * 10_000), "stop"),
        (llm_pb2.GenerateRequest(messages=[user("hi")], stop=[""]), "stop"),
    ],
)
async def test_bad_request_is_refused_with_the_field(stub: Stub, request_: llm_pb2.GenerateRequest, field: str) -> None:
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, request_)
    assert reason_of(caught.value)[0] == "INVALID_REQUEST"
    assert field in (caught.value.details() or "")


@pytest.mark.parametrize("words", [2100, 2_000_000])
async def test_prompt_that_is_too_long_is_refused_with_numbers(stub: Stub, words: int) -> None:
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, llm_pb2.GenerateRequest(messages=[user("tree " * words)]))
    assert reason_of(caught.value)[0] == "PROMPT_TOO_LONG"
    details = caught.value.details() or ""
    assert "2,048" in details
    assert ("2,1" in details) if words == 2100 else ("10,000,000 characters" in details)


async def test_prompt_and_asked_tokens_must_fit_together(stub: Stub) -> None:
    request = llm_pb2.GenerateRequest(messages=[user("tree " * 1500)], max_tokens_count=1000)
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, request)
    assert reason_of(caught.value)[0] == "PROMPT_TOO_LONG"


async def test_warm_prefix_is_found_by_a_later_generation(stub: Stub) -> None:
    prefix = [system("You explain what forensic tools found in a picture. " * 20)]
    request = llm_pb2.GenerateRequest(messages=[*prefix, user("Hello.")], max_tokens_count=4)
    first = await stub.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=prefix))
    again = await stub.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=prefix))
    usage = (await ask(stub, request)).finish.usage
    assert first.cached_prompt_tokens_count == 0
    assert again.prompt_tokens_count == first.prompt_tokens_count
    assert again.cached_prompt_tokens_count > first.prompt_tokens_count / 2
    assert usage.cached_prompt_tokens_count >= again.cached_prompt_tokens_count
    assert usage.prompt_tokens_count > usage.cached_prompt_tokens_count


async def test_cancelling_frees_the_engine(stub: Stub) -> None:
    before = (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load
    call = stub.Generate(llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000))
    await anext(aiter(call))
    assert (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load.active_requests_count == 1
    call.cancel()
    await engine_process.wait_idle(stub, timeout_s=3)
    after = (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load
    assert after.completed_requests_count == before.completed_requests_count


async def test_deadline_frees_the_engine(stub: Stub) -> None:
    with pytest.raises(AioRpcError) as caught:
        await ask(stub, llm_pb2.GenerateRequest(messages=[user(LONG)], max_tokens_count=1000), timeout_s=0.4)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await engine_process.wait_idle(stub, timeout_s=3)


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
    ended: list[str] = []

    async def run(name: str, priority: int, tokens: int) -> None:
        messages = [user(f"{name} {LONG}")]
        await ask(stub, llm_pb2.GenerateRequest(messages=messages, max_tokens_count=tokens, priority=priority))
        ended.append(name)

    running = [asyncio.ensure_future(run(f"running{n}", -1, 60)) for n in range(engine_process.MAX_RUNNING)]
    await asyncio.sleep(0.2)
    late = asyncio.ensure_future(run("patient", 5, 40))
    await asyncio.sleep(0.1)
    urgent = asyncio.ensure_future(run("urgent", 0, 2))
    await asyncio.gather(*running, late, urgent)
    assert ended.index("urgent") < ended.index("patient")


def test_sigterm_ends_the_service_with_exit_code_0_and_no_process_left(service: ServiceProcess) -> None:
    processes = engine_process.descendants(service.process.pid)
    assert engine_process.engine_of(service.process.pid) in processes
    assert service.terminate(20) == 0
    assert engine_process.wait_gone(processes, 1) == []
