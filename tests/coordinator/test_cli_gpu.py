"""`coordinator-cli gpu` as people and scripts use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from coordinator.cli.__main__ import main
from serving.errors import ExitCode

GIB = 1024**3


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["gpu", *arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_plan_of_the_four_gpu_host_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--host", "4xA100-40GB", "--json")
    assert code == ExitCode.OK
    options = {option["title"]: option for option in json.loads(out)["options"]}
    padded = options["3+1 TP=3 bf16"]
    assert padded["padding"] == {
        "query_heads": 45,
        "kv_heads": 9,
        "intermediate_size": 27648,
        "vocab_size": 152064,
    }
    assert padded["served"]
    assert padded["weights_bytes_per_gpu"][0] / GIB == pytest.approx(20.66, rel=0.01)
    assert padded["guide"]["corrections"]
    assert not options["4+0 TP=4 bf16, vision shares a GPU"]["valid"]


def test_plan_for_people_says_what_is_best_and_where_the_guide_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--host", "4xA100-40GB")
    assert code == ExitCode.OK
    for part in ("Best: 3+1 TP=3 bf16", "the guide says", "20.66", "cannot run"):
        assert part in out


def test_plan_that_finds_no_layout_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "plan", "--host", "2xL4", "--model", "Qwen2.5-72B-Instruct", "--quantization", "bf16")
    assert code == ExitCode.ITEMS_FAILED
    assert "No layout can run" in out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("--host", "4xNothing"), "COUNTxKIND"),
        (("--host", "4xL4", "--model", "nobody/nothing"), "is not known"),
        (("--host", "4xL4", "--model", "Qwen2.5-7B-Instruct-AWQ", "--quantization", "bf16"), "stored as awq"),
    ],
)
def test_plan_with_wrong_options_ends_with_2(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], part: str
) -> None:
    code, _, err = run(capsys, "plan", *arguments)
    assert code == ExitCode.USAGE
    assert part in err.replace("\n", " ")


def test_check_without_a_driver_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this host has an NVIDIA driver")
    code, out, _ = run(capsys, "check", "--json")
    assert code == ExitCode.UNREACHABLE
    document = json.loads(out)
    assert document["gpus"] == []
    assert "NO_DRIVER" in {finding["code"] for finding in document["findings"]}


@pytest.mark.parametrize(("layout", "part"), [("5+0", "by name: 3+1, "), ("3+1", "UUIDs")])
def test_a_layout_is_chosen_by_its_profile_s_name(capsys: pytest.CaptureFixture[str], layout: str, part: str) -> None:
    code, _, err = run(capsys, "apply", "--host", "4xA100-40GB", "--layout", layout)
    assert code == ExitCode.USAGE
    assert part in err.replace("\n", " ")
