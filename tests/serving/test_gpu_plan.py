"""Plans for hosts that are described, not present."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from serving.errors import MaifsError, Reason
from serving.gpu import guide
from serving.gpu.hosts import GIB, parse_host, save_host
from serving.gpu.plan import Assumptions, Option, Plan, Vision, make_plan, pick
from serving.known_models import find_shape
from serving.model_shapes import Quantization
from serving.profiles import PROFILES

ALL = tuple(Quantization)


def plan_of(host: str, model: str, *formats: Quantization, tokens: int = 4096) -> Plan:
    return make_plan(parse_host(host), find_shape(model), formats or ALL, Assumptions(tokens))


def option(plan: Plan, title: str) -> Option:
    return next(option for option in plan.options if option.layout.title == title)


@pytest.fixture(name="guided", scope="module")
def _guided() -> Plan:
    return plan_of("4xA100-40GB", "Qwen2.5-32B-Instruct")


def test_every_layout_of_the_guide_and_those_it_lacked_are_judged(guided: Plan) -> None:
    assert {option.layout.title for option in guided.options if option.valid} == {
        "3+1 TP=3 bf16",
        "3+1 PP=3 bf16",
        "3+1 TP=3 fp8",
        "3+1 TP=3 awq",
        "2+2 TP=2 bf16",
        "2+2 TP=2 fp8",
        "2+2 TP=2 awq",
        "1+3 TP=1 fp8",
        "1+3 TP=1 awq",
        "3+1 3 replicas fp8",
        "3+1 3 replicas awq",
        "3+1 TP=3 bf16 + 20 GiB offload",
        "4+0 TP=4 bf16, vision on CPU",
    }
    assert {option.layout.title for option in guided.options if not option.valid} == {
        "1+3 TP=1 bf16",
        "3+1 3 replicas bf16",
        "4+0 TP=4 bf16, vision shares a GPU",
    }


def test_the_padded_split_is_the_best_and_says_what_it_needs(guided: Plan) -> None:
    best = guided.best
    assert best is not None
    assert best.layout.title == "3+1 TP=3 bf16"
    assert any("45/9 heads, 5/1 padded, +1.5 % weights, +12.5 % KV" in note for note in best.notes)


def test_every_named_profile_is_among_the_layouts(guided: Plan) -> None:
    named = {option.layout.title: option.layout.profile for option in guided.options if option.layout.profile}
    assert named == {
        "3+1 TP=3 bf16": "3+1",
        "3+1 TP=3 fp8": "3+1",
        "3+1 TP=3 awq": "3+1",
        "3+1 PP=3 bf16": "3+1-pp",
        "2+2 TP=2 bf16": "2+2",
        "2+2 TP=2 fp8": "2+2",
        "2+2 TP=2 awq": "2+2-awq",
        "3+1 TP=3 bf16 + 20 GiB offload": "cpu-offload",
        "1+3 TP=1 bf16": "single",
        "1+3 TP=1 fp8": "single",
        "1+3 TP=1 awq": "single",
    }
    assert set(named.values()) == set(PROFILES)


def test_vision_on_the_llm_s_gpus_is_refused_with_the_memory_left(guided: Plan) -> None:
    shared = option(guided, "4+0 TP=4 bf16, vision shares a GPU")
    assert "no device pin" in shared.reasons[0]
    assert "leaves 3.2 GiB" in shared.reasons[1]


def test_weights_that_do_not_fit_are_refused_with_numbers(guided: Plan) -> None:
    replicas = option(guided, "3+1 3 replicas bf16")
    assert "61.0 GiB" in replicas.reasons[0]
    assert "34.2 GiB" in replicas.reasons[0]


def test_a_context_too_long_for_the_cache_is_refused() -> None:
    plan = plan_of("4xA100-40GB", "Qwen2.5-32B-Instruct", Quantization.BF16, tokens=32_768)
    tight = option(plan, "2+2 TP=2 bf16")
    assert "do not hold one sequence of 32768 tokens" in tight.reasons[0]


def test_the_guide_is_contradicted_where_it_is_wrong(guided: Plan) -> None:
    claim = guide.claim(option(guided, "3+1 TP=3 bf16"), guided)
    assert claim is not None
    text = "; ".join(claim.corrections)
    for part in ("refuses TP=3", "20.7 GiB", "72 tok/s is above the bound of 71.8", "36 GiB", "26%"):
        assert part in text
    offload = guide.claim(option(guided, "3+1 TP=3 bf16 + 20 GiB offload"), guided)
    assert offload is not None
    assert "62 times slower" in offload.corrections[0]


def test_the_guide_says_nothing_of_other_models_and_hosts() -> None:
    for host, model in (("4xA100-40GB", "Qwen2.5-14B-Instruct"), ("4xH200", "Qwen2.5-32B-Instruct")):
        plan = plan_of(host, model)
        assert all(guide.claim(option, plan) is None for option in plan.options)


def test_one_gpu_leaves_vision_the_cpu() -> None:
    plan = plan_of("1xL4", "Qwen2.5-7B-Instruct")
    assert [option.layout.vision for option in plan.options if option.valid] == [Vision.CPU]


def test_old_gpus_are_refused_for_what_they_cannot_run() -> None:
    plan = plan_of("4xV100-32GB", "Qwen2.5-7B-Instruct", Quantization.AWQ)
    assert plan.best is None
    assert "compute capability 7.0" in " ".join(plan.options[0].reasons)


def test_a_gpu_split_by_mig_is_refused() -> None:
    host = parse_host("4xA100-40GB")
    host = replace(host, gpus=(replace(host.gpus[0], mig=True, index=0), *host.gpus[1:]))
    plan = make_plan(host, find_shape("Qwen2.5-7B-Instruct"), ALL, Assumptions())
    assert plan.best is None
    assert "GPU 0 is split by MIG" in plan.options[0].reasons


def test_gpus_are_given_out_without_overlap(guided: Plan) -> None:
    host = parse_host("4xA100-40GB")
    numbered = tuple(replace(gpu, index=i) for i, gpu in enumerate(host.gpus))
    for candidate in guided.options:
        llm, vision = pick(numbered, candidate.layout)
        assert len(llm) == candidate.layout.llm_gpus
        assert not {gpu.index for gpu in llm} & {gpu.index for gpu in vision}


@pytest.mark.parametrize("text", ["4xA100-SXM4-40GB", "4 x NVIDIA A100-40GB", "4Xa100-40gb"])
def test_a_host_is_understood_in_several_spellings(text: str) -> None:
    host = parse_host(text)
    assert len(host.gpus) == 4
    assert host.gpus[0].memory_bytes == round(39.4 * GIB)


@pytest.mark.parametrize("text", ["A100-40GB", "0xL4", "4xA100", "99xL4", "4xnothing"])
def test_a_host_that_is_not_understood_is_answered_with_the_kinds(text: str) -> None:
    with pytest.raises(MaifsError, match="A100-40GB") as caught:
        parse_host(text)
    assert caught.value.reason is Reason.INVALID_REQUEST


def test_a_saved_host_is_the_host(tmp_path: Path) -> None:
    host = parse_host("4xH100-80GB")
    save_host(host, tmp_path / "host.json")
    assert parse_host(str(tmp_path / "host.json")) == host


def test_a_file_that_is_no_profile_is_refused(tmp_path: Path) -> None:
    (tmp_path / "host.json").write_text('{"gpus": [{}]}')
    with pytest.raises(MaifsError) as caught:
        parse_host(str(tmp_path / "host.json"))
    assert caught.value.reason is Reason.FILE_UNREADABLE


@pytest.mark.parametrize(
    ("title", "weights", "kv", "sequences", "rate"),
    [
        ("3+1 TP=3 bf16", (20.66,), (13.6,), 36, 71.8),
        ("3+1 PP=3 bf16", (20.0, 20.5), (13.7, 14.3), 41, 24.3),
        ("3+1 TP=3 fp8", (10.81,), (23.4,), 62, None),
        ("3+1 TP=3 awq", (6.08,), (28.2,), 75, None),
        ("2+2 TP=2 bf16", (30.5,), (3.7,), 7, 48.6),
        ("4+0 TP=4 bf16, vision on CPU", (15.3,), (19.0,), 76, 97.2),
    ],
)
def test_the_four_gpu_host_agrees_with_what_was_worked_out_by_hand(
    guided: Plan, title: str, weights: tuple[float, ...], kv: tuple[float, ...], sequences: int, rate: float | None
) -> None:
    """GiB per GPU from the shape's published numbers; 39.4 GiB usable, 0.92 of it the engine's, 2 GiB overhead."""
    found = option(guided, title)
    assert sorted({round(value / GIB, 2) for value in found.weights_bytes}) == pytest.approx(list(weights), rel=0.01)
    assert sorted({round(value / GIB, 1) for value in found.kv_bytes}) == pytest.approx(list(kv), abs=0.06)
    assert found.sequences == pytest.approx(sequences, abs=1)
    if rate:
        assert found.decode_tokens_per_s == pytest.approx(rate, rel=0.01)
