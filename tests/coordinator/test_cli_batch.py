"""coordinator-cli with batches: the real journal behind a real server, simulated tools."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from unittest.mock import MagicMock

import grpc
import pytest

from coordinator.cli.analyze import Analysis, AnalyzeSettings
from coordinator.cli.progress import NoDisplay
from coordinator.cli.terminal import Style, Terminal
from coordinator.client.batch import BatchRequest, BatchRun
from maifs.coordinator.v1 import batch_pb2
from serving.errors import ExitCode, MaifsError, Reason
from serving.item_stream import Item
from tests.conftest import ROOT
from tests.coordinator.batches import until
from tests.coordinator.world_thread import WorldThread, analysed, analyze, command, write_picture
from tests.processes import socket_folder


@pytest.fixture
def server() -> Iterator[WorldThread]:
    with socket_folder() as folder:
        thread = WorldThread(folder)
        yield thread
        thread.close()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate("abc"):
        write_picture(folder / f"{name}.png", seed)
    return folder


def batch_id(server: WorldThread, capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert command(server, "batch", "list", "--json") == ExitCode.OK
    return str(json.loads(capsys.readouterr().out.splitlines()[0])["batch_id"])


def test_running_a_finished_command_again_analyses_nothing_and_says_so(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert analyze(server, pictures, "--out", out) == ExitCode.OK
    written = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    capsys.readouterr()
    assert analyze(server, pictures, "--out", out) == ExitCode.OK
    captured = capsys.readouterr()
    assert "All 3 pictures were done before this run" in captured.err
    assert not captured.out
    assert analysed(server) == 3
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == written


def test_scripts_get_every_picture_of_a_command_that_is_run_again(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert analyze(server, pictures, "--out", tmp_path / "out", "--json") == ExitCode.OK
    first = sorted(capsys.readouterr().out.splitlines())
    assert analyze(server, pictures, "--out", tmp_path / "out", "--json") == ExitCode.OK
    assert sorted(capsys.readouterr().out.splitlines()) == first


def test_missing_report_files_are_made_again(server: WorldThread, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    analyze(server, pictures, "--out", out, "--quiet")
    content = {path.name: path.read_bytes() for path in out.iterdir()}
    next(out.glob("a-*.html")).unlink()
    next(out.glob("b-*.json")).write_text("half of")
    (out / ".maifs-1234.part").write_text("left by a run that was killed")
    assert analyze(server, pictures, "--out", out, "--quiet") == ExitCode.OK
    assert {path.name: path.read_bytes() for path in out.iterdir()} == content
    assert analysed(server) == 3


def test_only_what_is_new_or_has_other_content_is_analysed(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze(server, pictures, "--out", tmp_path / "out", "--quiet")
    write_picture(pictures / "a.png", 77)
    write_picture(pictures / "d.png", 78)
    assert analyze(server, pictures, "--out", tmp_path / "out") == ExitCode.OK
    assert analysed(server) == 5
    assert "2 pictures were done before" in capsys.readouterr().err
    index = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert all(f"{name}.png" in index for name in "abcd")


def test_a_picture_that_failed_for_no_fault_of_its_own_is_tried_again(
    server: WorldThread, pictures: Path, tmp_path: Path
) -> None:
    broken = True

    async def fail(item: Item, attempt: int) -> None:
        if broken and item.file_name == "b.png":
            raise MaifsError(Reason.BACKEND_FAILED, "a bug")

    server.world.vision.before_tools = fail
    out = tmp_path / "out"
    assert analyze(server, pictures, "--out", out, "--quiet") == ExitCode.ITEMS_FAILED
    assert (out / "b-failed.json").exists()
    broken = False
    assert analyze(server, pictures, "--out", out, "--quiet") == ExitCode.OK
    assert not (out / "b-failed.json").exists()
    assert analysed(server) == 4


def test_files_that_cannot_be_read_are_errors_of_their_own(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "empty.png").touch()
    (pictures / "gone.png").symlink_to(pictures / "nowhere")
    assert analyze(server, pictures, "--out", tmp_path / "out", "--json") == ExitCode.ITEMS_FAILED
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    reasons = {Path(d["path"]).name: d["error"]["reason"] for d in documents if d["status"] == "error"}
    assert reasons == {"empty.png": "EMPTY_FILE", "gone.png": "FILE_UNREADABLE"}
    assert sum(d["status"] == "ok" for d in documents) == 3


def test_two_runs_of_one_command_at_a_time_share_the_work(server: WorldThread, pictures: Path, tmp_path: Path) -> None:
    runs = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "coordinator.cli",
                "analyze",
                str(pictures),
                "--no-llm",
                "--json",
                "--out",
                str(tmp_path / "out"),
                "--address",
                server.address,
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for _ in range(2)
    ]
    outputs = [run.communicate(timeout=60)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert [len(output.splitlines()) for output in outputs] == [3, 3]
    assert analysed(server) == 3


def test_ctrl_c_says_how_to_go_on_and_the_coordinator_does(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gate = server.wait(server.event())

    async def hold(item: Item, attempt: int) -> None:
        await gate.wait()

    server.world.vision.before_tools = hold
    process = subprocess.Popen(
        [
            sys.executable, "-m", "coordinator.cli", "analyze", str(pictures), "--no-llm",
            "--out", str(tmp_path / "out"), "--address", server.address,
        ],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    async def sealed() -> bool:
        assert server.world.service
        assert server.world.service._batches
        found = await server.world.service._batches.journal.read(lambda queries: queries.batches(2**62, 1))
        return bool(found and found[0].sealed and found[0].queued_count == 3)

    server.wait(until(sealed))
    process.send_signal(signal.SIGINT)
    errors = process.communicate(timeout=20)[1]
    assert process.returncode == ExitCode.INTERRUPTED
    name = batch_id(server, capsys)
    assert "0 of 3 pictures are done" in errors
    assert "same command" in errors.replace("\n", " ")
    server.set(gate)
    assert command(server, "batch", "watch", name[:10], "--json") == ExitCode.OK
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert analyze(server, pictures, "--out", tmp_path / "out", "--quiet") == ExitCode.OK
    assert analysed(server) == 3


@pytest.mark.parametrize(
    ("submitted", "hint"), [(True, "coordinator-cli batch cancel b7"), (False, "Run the same command again")]
)
def test_the_hint_after_an_interruption_depends_on_what_the_coordinator_has(
    tmp_path: Path, submitted: bool, hint: str
) -> None:
    settings = AnalyzeSettings("unix:/c", use_llm=False, llm_wait_s=None, concurrency=None, lang="en", out=tmp_path)
    run = Analysis(settings, Terminal(Style.TEXT, "en", quiet=True), NoDisplay())
    request = BatchRequest("b7", "", batch_pb2.BatchOptions(), 1)
    run._batch = BatchRun(cast("grpc.aio.Channel", MagicMock()), "unix:/c", [], request)
    run._batch.submitted = submitted
    assert hint in run.resume_hint()


def test_batches_are_listed_shown_and_cancelled(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    analyze(server, pictures, "--out", tmp_path / "out", "--quiet")
    name = batch_id(server, capsys)
    assert command(server, "batch", "list") == ExitCode.OK
    assert "3 of 3" in capsys.readouterr().out
    assert command(server, "batch", "show", name, "--json") == ExitCode.OK
    items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(item["position"], item["state"], item["verdict"]) for item in items] == [
        (n, "reported", items[0]["verdict"]) for n in (1, 2, 3)
    ]
    assert command(server, "batch", "show", name) == ExitCode.OK
    assert "a.png" in capsys.readouterr().out
    assert command(server, "batch", "cancel", name) == ExitCode.OK
    assert "3 of 3" in capsys.readouterr().out
    assert command(server, "batch", "show", "none") == ExitCode.USAGE
    assert "batch list" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["file", "json", "digest", "batch by number", "batch by path"])
def test_a_stored_report_is_found_by_every_name(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    out = tmp_path / "out"
    analyze(server, pictures, "--out", out, "--json")
    document = next(d for d in map(json.loads, capsys.readouterr().out.splitlines()) if d["path"].endswith("a.png"))
    name = batch_id(server, capsys)
    command(server, "batch", "show", name, "--json")
    items = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    position = next(item["position"] for item in items if item["path"].endswith("a.png"))
    arguments = {
        "file": [pictures / "a.png"],
        "json": [next(out.glob("a-*.json"))],
        "digest": [document["image"]["sha256"]],
        "batch by number": [name, str(position)],
        "batch by path": [name, pictures / "a.png"],
    }[what]
    assert command(server, "report", *arguments, "--format", "json") == ExitCode.OK
    found = json.loads(capsys.readouterr().out)
    assert found["request_id"] == document["request_id"]
    assert command(server, "report", *arguments) == ExitCode.OK
    assert "a.png" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert command(server, "report", *arguments, "--format", "html", "--out", page) == ExitCode.OK
    assert "data:image/jpeg;base64," in page.read_text("utf-8"), "the picture is still there"


def test_what_has_no_report_is_said(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(server, "report", pictures / "a.png") == ExitCode.USAGE
    assert "no report" in capsys.readouterr().err
    assert command(server, "report", tmp_path / "none.png") == ExitCode.ITEMS_FAILED
    (tmp_path / "other.json").write_text("{}")
    assert command(server, "report", tmp_path / "other.json") == ExitCode.USAGE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_output_folder_that_is_read_only_ends_the_command_before_it_begins(
    server: WorldThread, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir(mode=0o500)
    assert analyze(server, pictures, "--out", tmp_path / "out") == ExitCode.USAGE
    assert analysed(server) == 0


def test_fresh_analyses_everything_again_and_the_new_reports_stay(
    server: WorldThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def request_ids(*more: str) -> dict[str, str]:
        assert analyze(server, pictures, "--out", tmp_path / "out", "--json", *more) == ExitCode.OK
        documents = map(json.loads, capsys.readouterr().out.splitlines())
        return {document["path"]: document["request_id"] for document in documents}

    first = request_ids()
    anew = request_ids("--fresh")
    assert anew.keys() == first.keys()
    assert not set(anew.values()) & set(first.values())
    assert analysed(server) == 6
    assert request_ids() == anew
    assert analysed(server) == 6
