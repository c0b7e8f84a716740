"""What the service answers, with the real engine."""

from __future__ import annotations

import json
import math
import re

import pytest

from maifs.llm.v1 import llm_pb2
from tests.llm import engine_process
from tests.llm.engine_process import LONG, Stub, ask, system, user

pytestmark = pytest.mark.engine

VERDICT_SCHEMA = {
    "type": "object",
    "properties": {
        "verdict": {"enum": ["authentic", "manipulated"]},
        "reasons": {"type": "array", "items": {"type": "string", "maxLength": 40}, "minItems": 1, "maxItems": 2},
    },
    "required": ["verdict", "reasons"],
    "additionalProperties": False,
}


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


async def test_answer_is_one_of_the_choices(stub: Stub) -> None:
    choices = ["a photo of a harbour", "an edited photo", "made by a model"]
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user("Which of the three?")], choices=choices))
    assert answer.text in choices
    assert answer.finish.reason == llm_pb2.FINISH_REASON_STOP


async def test_whole_answer_matches_the_regex(stub: Stub) -> None:
    pattern = r"(yes|no), [0-9]{1,3} %"
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user("Is it edited, and how sure?")], regex=pattern))
    assert re.fullmatch(pattern, answer.text)


@pytest.mark.parametrize(
    "grammar",
    [
        'root ::= "score " digit "." digit\ndigit ::= [0-9]',
        'start: "score " DIGIT "." DIGIT\nDIGIT: /[0-9]/',
    ],
    ids=["EBNF", "Lark"],
)
async def test_answer_follows_the_grammar(stub: Stub, grammar: str) -> None:
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user("Give a score.")], grammar=grammar))
    assert re.fullmatch(r"score [0-9]\.[0-9]", answer.text)


async def test_log_probabilities_come_with_every_token_and_are_those_of_a_distribution(stub: Stub) -> None:
    question = [user("What is the capital of France?")]
    answer = await ask(stub, llm_pb2.GenerateRequest(messages=question, top_logprobs_count=3))
    assert len(answer.logprobs) == answer.finish.usage.output_tokens_count
    for token in answer.logprobs:
        assert len(token.top) == 3
        assert token.top[0] == token.token, "a greedy answer takes the likeliest token"
        assert [other.logprob for other in token.top] == sorted((other.logprob for other in token.top), reverse=True)
        assert sum(math.exp(other.logprob) for other in token.top) <= 1.001
    assert "".join(token.token.text for token in answer.logprobs).startswith(answer.text)


async def test_log_probabilities_only_when_asked_for(stub: Stub) -> None:
    question = [user("What is the capital of France?")]
    none = await ask(stub, llm_pb2.GenerateRequest(messages=question))
    own = await ask(stub, llm_pb2.GenerateRequest(messages=question, top_logprobs_count=0))
    assert none.logprobs == []
    assert len(own.logprobs) == own.finish.usage.output_tokens_count
    assert all(token.token.logprob <= 0 and not token.top for token in own.logprobs)
    assert own.text == none.text
