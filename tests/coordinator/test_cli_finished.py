"""coordinator-cli on the journal that an `analyze --out` left behind, with no coordinator to ask."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coordinator.cli.__main__ import main
from coordinator.cli.journal import STATE_FOLDER
from coordinator.client.target import ADDRESS_VARIABLE
from coordinator.journal.schema import DATABASE_NAME
from serving.errors import ExitCode
from serving.item_stream import Item
from tests.coordinator.world_thread import WorldThread, analyze, command, write_picture
from tests.processes import socket_folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        write_picture(folder / f"{name}.png", seed)
    return folder


@pytest.fixture
def server(out: Path) -> Iterator[WorldThread]:
    """A coordinator whose journal lies where that of services of our own would."""
    with socket_folder() as folder:
        thread = WorldThread(folder, out / STATE_FOLDER)
        yield thread
        thread.close()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """No coordinator is named or runs; notes when services would be started."""
    started: list[bool] = []

    def refuse(*_: object) -> None:
        started.append(True)
        raise RuntimeError("services were started")

    monkeypatch.delenv(ADDRESS_VARIABLE, raising=False)
    monkeypatch.setattr("coordinator.client.target.DEFAULT_ADDRESS", "unix:/nowhere/coordinator.sock")
    monkeypatch.setattr("coordinator.cli.analyze.embedded_services", refuse)
    return started


def again(pictures: Path, out: Path, *more: str) -> int:
    return main(["analyze", str(pictures), "--no-llm", "--out", str(out), *more])


def test_a_finished_run_starts_no_service(
    server: WorldThread, pictures: Path, out: Path, alone: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(server, pictures, "--out", out) == ExitCode.OK
    files = {path: path.read_bytes() for path in out.iterdir() if path.is_file()}
    for path in out.glob("a-*"):
        path.unlink()
    capsys.readouterr()
    assert again(pictures, out) == ExitCode.OK
    captured = capsys.readouterr()
    assert "Nothing is left to do" in captured.err
    assert "All 3 pictures were done before this run" in captured.err
    assert not captured.out
    assert {path: path.read_bytes() for path in out.iterdir() if path.is_file()} == files
    assert not alone


def test_scripts_get_every_picture_of_a_finished_run(
    server: WorldThread, pictures: Path, out: Path, alone: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    analyze(server, pictures, "--out", out, "--json")
    first = sorted(capsys.readouterr().out.splitlines())
    assert again(pictures, out, "--json") == ExitCode.OK
    assert sorted(capsys.readouterr().out.splitlines()) == first
    assert not alone


@pytest.mark.parametrize("change", ["new picture", "other content", "--fresh", "other options", "never analysed"])
def test_services_are_started_when_something_is_left_to_do(
    server: WorldThread, pictures: Path, out: Path, alone: list[bool], change: str
) -> None:
    if change != "never analysed":
        analyze(server, pictures, "--out", out, "--quiet")
    if change in {"new picture", "other content"}:
        write_picture(pictures / ("d.png" if change == "new picture" else "a.png"), 77)
    more = {"--fresh": ["--fresh"], "other options": ["--lang", "ko"]}.get(change, [])
    assert again(pictures, out, *more) == ExitCode.INTERNAL
    assert alone


def test_pictures_that_failed_for_another_reason_than_themselves_are_left_to_do(
    server: WorldThread, pictures: Path, out: Path, alone: list[bool]
) -> None:
    from serving.errors import MaifsError, Reason

    async def fail(item: Item, attempt: int) -> None:
        reason = {"a.png": Reason.NOT_AN_IMAGE, "b.png": Reason.BACKEND_FAILED}.get(item.file_name)
        if reason:
            raise MaifsError(reason, "no")

    server.world.vision.before_tools = fail
    assert analyze(server, pictures, "--out", out, "--quiet") == ExitCode.ITEMS_FAILED
    assert again(pictures, out) == ExitCode.INTERNAL
    (pictures / "b.png").unlink()
    alone.clear()
    assert again(pictures, out) == ExitCode.ITEMS_FAILED
    assert not alone, "a picture that is none stays one"


def test_batches_and_reports_are_read_beside_a_coordinator_and_after_it(
    server: WorldThread, pictures: Path, out: Path, capsys: pytest.CaptureFixture[str], alone: list[bool]
) -> None:
    analyze(server, pictures, "--out", out, "--json")
    documents = {Path(d["path"]).name: d for d in map(json.loads, capsys.readouterr().out.splitlines())}

    def answers(*where: str) -> list[str]:
        name = documents["a.png"]["image"]["sha256"]
        found = []
        for arguments in (
            ["batch", "list", "--json"],
            ["batch", "show", "analyze-", "--json"],
            ["report", name, "--format", "json"],
            ["report", str(pictures / "a.png"), "--format", "json"],
            ["report", "analyze-", str(pictures / "b.png"), "--format", "json"],
        ):
            assert main([*arguments, *where]) == ExitCode.OK
            found.append(capsys.readouterr().out)
        return found

    asked = answers("--address", server.address)
    assert json.loads(asked[2])["request_id"] == documents["a.png"]["request_id"]
    assert answers("--from", str(out)) == asked, "while the coordinator has it open"
    crashed = out.parent / "crashed"
    shutil.copytree(out / STATE_FOLDER, crashed / STATE_FOLDER)
    assert answers("--from", str(crashed)) == asked, "as a killed coordinator leaves it"
    server.wait(server.world.close())
    assert answers("--from", str(out)) == asked, "after an orderly end"


def test_what_is_no_journal_is_said(
    server: WorldThread, tmp_path: Path, capsys: pytest.CaptureFixture[str], alone: list[bool]
) -> None:
    assert main(["batch", "list", "--from", str(tmp_path / "none")]) == ExitCode.USAGE
    assert "no journal" in capsys.readouterr().err
    assert command(server, "batch", "list", "--from", tmp_path) == ExitCode.USAGE
    assert "--from" in capsys.readouterr().err
    folder = tmp_path / "damaged" / STATE_FOLDER
    folder.mkdir(parents=True)
    (folder / DATABASE_NAME).write_bytes(b"no database" * 1000)
    assert main(["batch", "list", "--from", str(tmp_path / "damaged")]) == ExitCode.USAGE
    assert "cannot be used" in capsys.readouterr().err
