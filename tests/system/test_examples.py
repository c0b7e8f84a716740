"""The examples of docs/client.md do what they say, against the running coordinator."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT, ServiceProcess

BIN = Path(sys.executable).parent
EXAMPLES = ROOT / "examples"


@pytest.fixture(name="environment")
def _environment(coordinator: ServiceProcess) -> dict[str, str]:
    path = f"{BIN}:{os.environ['PATH']}"
    here = {"MAIFS_ADDRESS": coordinator.address, "MAIFS_INSECURE": "1"}
    return {**os.environ, **here, "PYTHONPATH": str(ROOT), "PATH": path}


def run(folder: Path, environment: dict[str, str], *command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_one_picture(picture: Path, environment: dict[str, str], tmp_path: Path) -> None:
    output = run(tmp_path, environment, sys.executable, EXAMPLES / "analyze.py", picture)
    assert output.split()[0] in {"authentic", "manipulated", "ai_generated", "uncertain"}
    assert "data:image/jpeg;base64," in (tmp_path / "report.html").read_text("utf-8")


def test_one_picture_that_is_none_exits_as_the_command_line_does(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no picture")
    command = [sys.executable, str(EXAMPLES / "analyze.py"), str(tmp_path / "text.jpg")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.startswith("NOT_AN_IMAGE: ")


def test_a_folder(picture: Path, environment: dict[str, str], tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(picture.read_bytes())
    (tmp_path / "broken.jpg").write_text("no picture")
    lines = run(tmp_path, environment, sys.executable, EXAMPLES / "batch.py", tmp_path).splitlines()
    answers = {Path(line.split("\t")[1]).name: line.split("\t")[0] for line in lines}
    assert sorted(answers) == ["0.jpg", "1.jpg", "2.jpg", "broken.jpg"]
    assert answers["broken.jpg"] == "NOT_AN_IMAGE"


def test_events(picture: Path, environment: dict[str, str], tmp_path: Path) -> None:
    lines = run(tmp_path, environment, sys.executable, EXAMPLES / "events.py", picture).splitlines()
    assert [line.split()[0][:5] for line in lines] == ["TOOL_"] * 4 + ["verdi", "repor"]


def test_grpcurl(picture: Path, environment: dict[str, str], coordinator: ServiceProcess, tmp_path: Path) -> None:
    output = run(tmp_path, environment, EXAMPLES / "grpcurl.sh", coordinator.address, picture)
    assert re.search(r'"verdict_?[rR]eached"', output), "grpcurl's versions differ in how they write names"
    assert '"report"' in output
