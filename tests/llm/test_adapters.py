"""LoRA adapters, before the engine sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llm_service.adapters import LoadedAdapters, adapter_arguments, parse_adapters
from serving.errors import MaifsError, Reason


def adapter_folder(folder: Path, rank: object = 8) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("entry", ["name", "=/path", "name=", " = "])
def test_entry_that_is_not_name_and_directory_is_a_fault(entry: str) -> None:
    assert any("NAME=DIRECTORY" in fault for fault in parse_adapters([entry])[1])


def test_name_given_twice_is_a_fault() -> None:
    assert any("twice" in fault for fault in parse_adapters(["a=/x", "a=/y"])[1])


def test_engine_keeps_all_adapters_and_the_largest_rank_rounded_up(tmp_path: Path) -> None:
    small, large = adapter_folder(tmp_path / "small", 4), adapter_folder(tmp_path / "large", 9)
    arguments = adapter_arguments([f"small={small}", f"large={large}"], is_cpu=False)
    assert arguments == {"enable_lora": True, "max_loras": 2, "max_cpu_loras": 2, "max_lora_rank": 16}
    assert adapter_arguments([], is_cpu=False) == {}


def test_one_place_stays_empty_on_a_cpu(tmp_path: Path) -> None:
    arguments = adapter_arguments([f"one={adapter_folder(tmp_path / 'one')}"], is_cpu=True)
    assert (arguments["max_loras"], arguments["max_cpu_loras"]) == (2, 2)
    assert adapter_arguments([], is_cpu=True) == {}


def test_damaged_adapter_is_refused_by_name(tmp_path: Path) -> None:
    whole = adapter_folder(tmp_path / "whole")
    for name, path in {
        "absent": tmp_path / "absent",
        "rankless": adapter_folder(tmp_path / "rankless", None),
        "huge": adapter_folder(tmp_path / "huge", 4096),
    }.items():
        with pytest.raises(MaifsError, match=f"adapter {name}") as caught:
            adapter_arguments([f"whole={whole}", f"{name}={path}"], is_cpu=False)
        assert caught.value.reason is Reason.MODEL_UNUSABLE
    (whole / "adapter_model.safetensors").unlink()
    with pytest.raises(MaifsError, match=r"adapter_model\.safetensors"):
        adapter_arguments([f"whole={whole}"], is_cpu=False)


def test_adapter_is_found_by_name_and_no_name_is_the_model_alone() -> None:
    adapters = LoadedAdapters({"forensic": "request"})
    assert adapters.get("") is None
    assert adapters.get("forensic") == "request"
    with pytest.raises(MaifsError, match=r"'other' is not loaded; loaded: forensic"):
        adapters.get("other")
