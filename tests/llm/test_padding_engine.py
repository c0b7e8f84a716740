"""Padded and split models on the real engine: the same greedy tokens as from one rank.

In float32. In bfloat16 the sums of several ranks are rounded differently, with padding and without: the unpadded small
model on three ranks does not always say what it says on one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from maifs.llm.v1 import llm_pb2
from tests.llm.engine_process import ask, connected, user
from tests.llm.greedy_runner import TOKENS_COUNT, Greedy, Job, run_jobs
from tests.llm.random_models import make_random_model, to_awq
from tests.model import prepared_model
from tests.processes import ServiceProcess, socket_folder

pytestmark = pytest.mark.engine

QUESTION = "Write a very long story about a river, a mill and a lighthouse."
PROMPTS = ((1, 5, 9, 100, 40), tuple(range(3, 40)))


def chat_prompt() -> tuple[int, ...]:
    """The question as the service renders it."""
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(prepared_model())
    messages = [{"role": "user", "content": QUESTION}]
    rendered = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)
    return tuple(rendered["input_ids"])


def text_of(tokens: list[int]) -> str:
    from transformers import AutoTokenizer

    return str(AutoTokenizer.from_pretrained(prepared_model()).decode(tokens))


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Greedy]:
    """Every model in every layout; all in one process, for the sake of time."""
    folder = tmp_path_factory.mktemp("padding")
    small, chat = str(prepared_model()), (chat_prompt(),)
    models = {name: str(make_random_model(folder / name, name)) for name in ("Llama", "Mistral", "Qwen2", "Qwen3")}
    awq = str(to_awq(folder / "Llama", folder / "AWQ"))
    jobs = {
        "SmolLM2": Job(small, chat),
        "SmolLM2 on three ranks": Job(small, chat, tensor_parallel_size=3),
        "Qwen2": Job(models["Qwen2"], PROMPTS),
        "Qwen2 on three ranks": Job(models["Qwen2"], PROMPTS, tensor_parallel_size=3),
    }
    for name in ("Mistral", "Qwen3"):
        jobs |= {name: Job(models[name], PROMPTS), f"{name} padded": Job(models[name], PROMPTS, pad_for=3)}
    jobs |= {
        "AWQ": Job(awq, PROMPTS, dtype="float16"),
        "AWQ padded": Job(awq, PROMPTS, pad_for=3, dtype="float16"),
    }
    return dict(zip(jobs, run_jobs(list(jobs.values()), folder), strict=True))


def same(one: Greedy, other: Greedy, tolerance: float = 1e-3) -> None:
    assert other.tokens == one.tokens
    for ours, theirs in zip(other.log_probabilities, one.log_probabilities, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)


def test_three_ranks_without_padding_say_what_one_says(answers: dict[str, Greedy]) -> None:
    assert answers["SmolLM2 on three ranks"].padding == "none"
    same(answers["SmolLM2"], answers["SmolLM2 on three ranks"])


def test_three_ranks_of_a_qwen2_whose_sizes_do_not_divide_say_what_one_says(answers: dict[str, Greedy]) -> None:
    assert answers["Qwen2 on three ranks"].padding.startswith(
        "15/3 heads, 5/1 padded; intermediate size 960, 160 padded; vocabulary 1152, 152 padded"
    )
    assert answers["Qwen2"].padding == "none"
    same(answers["Qwen2"], answers["Qwen2 on three ranks"])


@pytest.mark.parametrize("name", ["Mistral", "Qwen3", "AWQ"])
def test_a_padded_model_says_what_it_says_unpadded(answers: dict[str, Greedy], name: str) -> None:
    assert answers[f"{name} padded"].padding.startswith("15/3 heads, 5/1 padded")
    same(answers[name], answers[f"{name} padded"])


@pytest.fixture(scope="module")
def service() -> Iterator[ServiceProcess]:
    """Two ranks of a model with nine and three heads, which unpadded vLLM refuses."""
    settings = {
        "model": str(prepared_model()),
        "profile": "2+2",
        "dtype": "float32",
        "max_model_len_tokens_count": 512,
        "max_output_tokens_count": 64,
        "default_output_tokens_count": 64,
    }
    arguments = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    with (
        socket_folder() as folder,
        ServiceProcess("llm_service", f"unix:{folder}/llm.sock", *arguments, log=folder / "llm.log") as process,
    ):
        yield process.wait_serving(600)


async def test_the_service_pads_by_itself_and_its_model_info_shows_it(service: ServiceProcess) -> None:
    async with connected(service) as stub:
        info = await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())
    layout = info.layout
    assert info.architecture == "LlamaForCausalLM"
    assert (layout.tensor_parallel_size, len(layout.devices)) == (2, 2)
    assert (layout.attention_heads_count, layout.kv_heads_count) == (12, 4)
    assert (layout.padded_attention_heads_count, layout.padded_kv_heads_count) == (3, 1)
    assert (layout.padded_intermediate_columns_count, layout.padded_vocabulary_rows_count) == (0, 0)
    assert layout.padding_weights_ratio == pytest.approx(0.0658, abs=1e-4)
    assert layout.padding_kv_cache_ratio == pytest.approx(1 / 3)
    assert layout.profile == "2+2"


def test_the_start_log_tells_the_padding_and_its_price(service: ServiceProcess) -> None:
    assert "12/4 heads, 3/1 padded, +6.6 % weights, +33.3 % KV" in service.log.read_text()


async def test_two_padded_ranks_say_what_one_says(service: ServiceProcess, answers: dict[str, Greedy]) -> None:
    async with connected(service) as stub:
        answer = await ask(stub, llm_pb2.GenerateRequest(messages=[user(QUESTION)], max_tokens_count=TOKENS_COUNT))
    assert answer.text == text_of(answers["SmolLM2"].tokens[0])
