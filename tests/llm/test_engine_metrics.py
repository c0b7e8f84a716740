"""Counts of the language-model service with the real engine, and what it passes on of vLLM's."""

from __future__ import annotations

from pathlib import Path

import pytest

from maifs.llm.v1 import llm_pb2
from tests.llm.engine_process import Stub, user
from tests.processes import ServiceProcess
from tests.scraping import Scrape, scrape, wait_value

pytestmark = pytest.mark.engine
TOKENS = "maifs_llm_tokens_total"


def shown_at(service: ServiceProcess) -> Path:
    return Path(service.address.removeprefix("unix:")).with_name("metrics.sock")


def grown(before: Scrape, after: Scrape, name: str, **labels: str) -> float:
    return after.value(name, **labels) - before.value(name, **labels)


async def test_answers_tokens_phases_and_batches_are_counted(service: ServiceProcess, stub: Stub) -> None:
    path = shown_at(service)
    before = scrape(path)
    prompt, cached, output = 0, 0, 0
    for text in ("Say one word.", "Say two words."):
        request = llm_pb2.GenerateRequest(messages=[user(text)], max_tokens_count=8)
        async for response in stub.Generate(request, timeout=120):
            if response.HasField("finish"):
                usage = response.finish.usage
                prompt += usage.prompt_tokens_count
                cached += usage.cached_prompt_tokens_count
                output += usage.output_tokens_count
    after = wait_value(path, before.value("maifs_llm_answers_total") + 2, "maifs_llm_answers_total")
    assert grown(before, after, TOKENS, kind="prompt") == prompt
    assert grown(before, after, TOKENS, kind="prompt_cached") == cached
    assert grown(before, after, TOKENS, kind="output") == output
    for phase in ("queue", "prefill", "decode", "total"):
        assert grown(before, after, "maifs_llm_phase_duration_seconds_count", phase=phase) == 2
    assert grown(before, after, "maifs_llm_batch_requests_count") > 0
    assert 0 <= after.value("maifs_llm_kv_cache_usage_ratio") <= 1


async def test_what_vllm_counts_is_passed_on(service: ServiceProcess, stub: Stub) -> None:
    path = shown_at(service)
    before = scrape(path)
    request = llm_pb2.GenerateRequest(messages=[user("Say hello.")], max_tokens_count=4)
    async for _ in stub.Generate(request, timeout=120):
        pass
    name = "vllm:request_success_total"
    after = wait_value(path, before.value(name) + 1, name)
    assert grown(before, after, "vllm:generation_tokens_total") == 4
    assert after.samples("vllm:kv_cache_usage_perc")
