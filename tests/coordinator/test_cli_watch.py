"""`watch` against a simulated coordinator, and `completion` in real shells."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.__main__ import main
from serving.errors import ExitCode
from tests.conftest import ROOT
from tests.coordinator.cli_server import ServerThread


@pytest.fixture
def server() -> Iterator[ServerThread]:
    folder = tempfile.mkdtemp(prefix="maifs-", dir="/tmp")
    thread = ServerThread(f"unix:{folder}/c.sock")
    yield thread
    thread.close()
    shutil.rmtree(folder)


def test_watch_prints_a_json_line_for_each_look(server: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--json", "--interval", "0.1", "--count", "3"]
    assert main(["watch", "--address", server.address, *options]) == ExitCode.OK
    looks = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [look["completed_items_count"] for look in looks] == [7, 7, 7]
    assert [look["reports_per_second"] for look in looks] == [None, 0.0, 0.0]
    assert looks[0]["backends"][0]["state"] == "serving"
    assert isinstance(looks[0]["gpus"], list)
    assert looks[0]["time"] < looks[1]["time"]


def test_watch_shows_backends_and_queue_to_people(server: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--address", server.address, "--count", "1"]) == ExitCode.OK
    text = capsys.readouterr().out
    for part in ("vision", "serving", "0 open, 0 waiting", "7 made, 0 failed", "Ctrl-C ends"):
        assert part in text


def test_watch_goes_on_when_the_coordinator_stops(server: ServerThread) -> None:
    command = [sys.executable, "-m", "coordinator.cli", "watch", "--json", "--interval", "0.1", "--address"]
    process = subprocess.Popen([*command, server.address], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "backends" in json.loads(process.stdout.readline())
        server.stop()
        lost = next(look for line in process.stdout if "error" in (look := json.loads(line)))
        assert lost["error"]["reason"] == "BACKEND_UNAVAILABLE"
        server.start()
        back = next(look for line in process.stdout if "backends" in (look := json.loads(line)))
        assert back["reports_per_second"] is not None
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED


def test_watch_without_a_coordinator_exits_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "--address", f"unix:{tmp_path}/none.sock"]) == ExitCode.UNREACHABLE
    assert "Start the services" in " ".join(capsys.readouterr().err.split())


def complete_in_bash(script: str, words: str, folder: Path) -> list[str]:
    """What bash offers for a line."""
    program = folder / "coordinator-cli"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m coordinator.cli "$@"\n')
    program.chmod(0o755)
    name = script.partition("(")[0].split()[-1]
    ask = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={len(words.split()) - 1}; {name} coordinator-cli; "
    ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_bash_completes_commands_options_and_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == ExitCode.OK
    script = capsys.readouterr().out
    assert complete_in_bash(script, "coordinator-cli ana", tmp_path) == ["analyze"]
    assert "--no-llm" in complete_in_bash(script, "coordinator-cli analyze --no", tmp_path)
    assert complete_in_bash(script, "coordinator-cli analyze --lang k", tmp_path) == ["ko"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_other_shells_are_well_formed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == ExitCode.OK
    script = capsys.readouterr().out
    assert "coordinator-cli" in script
    if shutil.which(shell):
        done = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


def test_an_unknown_shell_is_a_usage_error() -> None:
    assert main(["completion", "cmd.exe"]) == ExitCode.USAGE
