"""Requests that must be refused: with the field named, and the engine unharmed."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from maifs.llm.v1 import llm_pb2
from tests.llm.engine_process import Stub, ask, refusal, user
from tests.processes import ServiceProcess

pytestmark = pytest.mark.engine

HI = [user("hi")]


def generation(**fields: object) -> llm_pb2.GenerateRequest:
    """A request that is good but for these fields."""
    return llm_pb2.GenerateRequest(**({"messages": HI} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "schema",
    [
        "{",
        "[]",
        "   ",
        '{"type": "strng"}',
        '{"type": 5}',
        '{"type": "object", "properties": {"a": {"$ref": "#/nowhere"}}}',
        '{"type": "integer", "multipleOf": 3}',
        '{"type": "string", "pattern": "(["}',
        '{"type": "string", "pattern": "a{99999999999}"}',
        '{"type": "integer", "minimum": 5, "maximum": 2}',
        '{"enum": ["\\ud800"]}',
        "[" * 5000,
        '{"items":' * 70 + "{}" + "}" * 70,
        '{"description": "' + "x" * 70_000 + '"}',
    ],
    ids=lambda schema: schema[:30],
)
async def test_schema_that_cannot_be_used(stub: Stub, schema: str) -> None:
    error, reason, _ = await refusal(stub, generation(json_schema=schema))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == "INVALID_JSON_SCHEMA"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("regex", "(["),
        ("regex", "(a)\\1"),
        ("regex", "a\0b"),
        ("regex", "a" * 5000),
        ("grammar", " "),
        ("grammar", 'yes ::= "no root"'),
        ("grammar", "root ::= nowhere"),
        ("grammar", "start: nowhere"),
        ("grammar", "root ::= " + "(" * 3000 + '"a"' + ")" * 3000),
        ("grammar", 'root ::= "' + "x" * 70_000 + '"'),
    ],
)
async def test_regex_or_grammar_that_cannot_be_used(stub: Stub, field: str, value: str) -> None:
    error, reason, message = await refusal(stub, generation(**{field: value}))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == "INVALID_CONSTRAINT"
    assert message.startswith(field)


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (llm_pb2.GenerateRequest(), "messages"),
        (generation(messages=[llm_pb2.ChatMessage(content="hi")]), "messages[0].role"),
        (generation(messages=[*HI, llm_pb2.ChatMessage(role=77, content="hi")]), "messages[1].role"),  # type: ignore[arg-type]
        (generation(max_tokens_count=-1), "max_tokens_count"),
        (generation(max_tokens_count=100_000), "max_tokens_count"),
        (generation(temperature=float("nan")), "temperature"),
        (generation(temperature=float("inf")), "temperature"),
        (generation(temperature=2.5), "temperature"),
        (generation(top_p=0.0), "top_p"),
        (generation(top_p=float("nan")), "top_p"),
        (generation(seed=-1), "seed"),
        (generation(stop=["x"] * 10_000), "stop"),
        (generation(stop=[""]), "stop"),
        (generation(priority=-(2**31)), "priority"),
        (generation(top_logprobs_count=21), "top_logprobs_count"),
        (generation(choices=[""]), "choices"),
        (generation(choices=["x"] * 1000), "choices"),
        (generation(choices=["x"], regex="x"), "choices and regex"),
    ],
)
async def test_field_out_of_range(stub: Stub, request_: llm_pb2.GenerateRequest, field: str) -> None:
    error, reason, message = await refusal(stub, request_)
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == "INVALID_REQUEST"
    assert field in message


async def test_zero_tokens_takes_the_default_and_seeds_may_be_large(stub: Stub) -> None:
    answer = await ask(stub, generation(max_tokens_count=0, seed=2**63 - 1, temperature=1.0))
    assert answer.finish.usage.output_tokens_count > 0


async def test_text_that_is_not_utf8(service: ServiceProcess, stub: Stub) -> None:
    data = generation(messages=[user("marker")]).SerializeToString().replace(b"marker", b"\xff\xfeker!")
    async with grpc.aio.insecure_channel(service.address) as channel:
        call: Any = channel.unary_stream(
            "/maifs.llm.v1.LlmService/Generate", request_serializer=lambda request: request
        )
        with pytest.raises(grpc.aio.AioRpcError, match=r"messages\[0\]\.content") as caught:
            await call(data, timeout=10).read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    await ask(stub, generation(max_tokens_count=1))


@pytest.mark.parametrize("words", [2100, 2_000_000])
async def test_prompt_that_is_too_long_is_refused_with_numbers(stub: Stub, words: int) -> None:
    error, reason, message = await refusal(stub, generation(messages=[user("tree " * words)]))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason == "PROMPT_TOO_LONG"
    assert "2,048" in message
    assert ("2,1" in message) if words == 2100 else ("10,000,000 characters" in message)


async def test_prompt_and_asked_tokens_must_fit_together(stub: Stub) -> None:
    _, reason, _ = await refusal(stub, generation(messages=[user("tree " * 1500)], max_tokens_count=1000))
    assert reason == "PROMPT_TOO_LONG"


async def test_text_model_refuses_pictures_and_says_why(stub: Stub) -> None:
    picture = llm_pb2.ImagePart(data=b"whatever")
    message = llm_pb2.ChatMessage(role=llm_pb2.ROLE_USER, content="What is it?", images=[picture])
    error, reason, text = await refusal(stub, generation(messages=[message]))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert reason == "IMAGES_NOT_SUPPORTED"
    assert "text alone" in text


async def test_adapter_that_is_not_loaded(stub: Stub) -> None:
    error, reason, text = await refusal(stub, generation(adapter="forensics"))
    assert error.code() is grpc.StatusCode.NOT_FOUND
    assert reason == "UNKNOWN_ADAPTER"
    assert "forensics" in text


@pytest.mark.parametrize(
    "grammar", ["root ::= root", 'root ::= ""', 'root ::= root "a" | "a"', 'root ::= (root root) | "a"']
)
async def test_odd_grammar_harms_nobody(stub: Stub, grammar: str) -> None:
    try:
        await ask(stub, generation(grammar=grammar, max_tokens_count=4), timeout_s=20)
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, "a refusal is as good as an answer"
    await ask(stub, generation(max_tokens_count=1))
