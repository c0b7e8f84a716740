"""coordinator-cli against a simulated coordinator on a UNIX socket."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from PIL import Image

from coordinator.cli.__main__ import main
from coordinator.client import target
from serving.errors import ExitCode
from tests.conftest import ROOT
from tests.coordinator.cli_server import MAX_IMAGE_BYTES, MAX_OPEN_ITEMS, ServerThread
from tests.coordinator.pictures import write_picture


@pytest.fixture
def server() -> Iterator[ServerThread]:
    folder = tempfile.mkdtemp(prefix="maifs-", dir="/tmp")
    thread = ServerThread(f"unix:{folder}/c.sock")
    yield thread
    thread.close()
    shutil.rmtree(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def run(server: ServerThread, *arguments: str | Path) -> int:
    return main(["analyze", *map(str, arguments), "--address", server.address])


def json_lines(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    documents = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(document["path"]).name: document for document in documents}


def strict_schema() -> dict[str, Any]:
    """The documented schema, under which a field that is not documented is a fault too."""
    schema: dict[str, Any] = json.loads((ROOT / "docs" / "report-schema.json").read_text("utf-8"))
    for definition in schema["$defs"].values():
        definition["additionalProperties"] = False
    return schema


def validate(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(strict_schema()).validate(document)


def test_all_analysed_exits_0_and_prints_a_readable_report(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(server, write_picture(pictures / "a.png"))
    text = capsys.readouterr().out
    assert code == ExitCode.OK
    for part in (
        "MANIPULATED",
        "93 %",
        "A region comes from another file.",
        "Foreign JPEG grid",
        "79 × likelier if edited",
    ):
        assert part in text
    for part in ("The original would help.", "The noise tool failed.", "Editor 1.0", "decode 12 ms"):
        assert part in text


def test_json_has_one_valid_object_per_picture(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_picture(pictures / f"{name}.png", seed) for seed, name in enumerate(("a", "fail", "b"))]
    code = run(server, *paths, "--json")
    documents = json_lines(capsys)
    assert code == ExitCode.ITEMS_FAILED
    assert set(documents) == {"a.png", "fail.png", "b.png"}
    for document in documents.values():
        validate(document)
    finding = documents["a.png"]["tools"][0]["findings"][0]
    assert documents["a.png"]["verdict"] == "manipulated"
    assert finding["heat_map"] == {"file": None, "cell_px": 8, "meaning": "Foreign grid.", "significant": True}
    assert documents["a.png"]["tools"][0]["findings"][2]["score"] is None, "a test that did not run has no score"
    assert documents["fail.png"]["error"]["reason"] == "NOT_AN_IMAGE"


def test_the_bytes_arrive_as_they_are_in_the_file(server: ServerThread, pictures: Path) -> None:
    data = os.urandom(3_500_000)  # more than a message takes
    (pictures / "big.jpg").write_bytes(data)
    assert run(server, pictures / "big.jpg", "--json") == ExitCode.OK
    assert server.coordinator.received["big.jpg"] == data


def test_open_items_stay_within_the_limits_of_coordinator_and_user(server: ServerThread, pictures: Path) -> None:
    for number in range(12):
        write_picture(pictures / f"{number}.png", number)
    assert run(server, pictures, "--json", "--concurrency", "50") == ExitCode.OK
    assert server.coordinator.most_open_items == MAX_OPEN_ITEMS
    server.coordinator.most_open_items = 0
    assert run(server, pictures, "--json", "--concurrency", "1") == ExitCode.OK
    assert server.coordinator.most_open_items == 1


def test_a_full_queue_is_tried_again_after_the_delay(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run(server, write_picture(pictures / "busy.png"), write_picture(pictures / "b.png", 1), "--json")
    assert code == ExitCode.OK
    assert {d["status"] for d in json_lines(capsys).values()} == {"ok"}
    assert server.coordinator.refused == {"busy.png"}


def test_what_cannot_be_read_is_an_error_of_that_file_alone(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = write_picture(pictures / "good.png")
    os.mkfifo(pictures / "pipe.png")
    (pictures / "dangling.png").symlink_to(pictures / "nowhere.png")
    (pictures / "empty.png").touch()
    with (pictures / "huge.png").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)
    code = run(server, good, pictures / "gone.png", pictures, "--json")
    documents = json_lines(capsys)
    reasons = {name: d["error"]["reason"] for name, d in documents.items() if d["status"] == "error"}
    assert code == ExitCode.ITEMS_FAILED
    assert documents["good.png"]["status"] == "ok"
    assert reasons == {
        "gone.png": "FILE_UNREADABLE",
        "pipe.png": "FILE_UNREADABLE",
        "dangling.png": "FILE_UNREADABLE",
        "empty.png": "EMPTY_FILE",
        "huge.png": "IMAGE_TOO_LARGE",
    }


def test_a_coordinator_that_is_lost_leaves_no_picture_without_an_outcome(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [write_picture(pictures / f"{name}.png", seed) for seed, name in enumerate(("a", "crash", "slow", "b"))]
    code = run(server, *paths, "--json")
    documents = json_lines(capsys)
    assert code == ExitCode.UNREACHABLE
    assert len(documents) == 4
    assert documents["slow.png"]["error"]["reason"] == "BACKEND_UNAVAILABLE"


def test_folders_are_walked_and_what_is_no_image_is_counted(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "deep" / "er").mkdir(parents=True)
    write_picture(pictures / "a.PNG")
    write_picture(pictures / "deep" / "er" / "b.heic", 1)
    (pictures / "notes.txt").write_text("no image")
    (pictures / ".hidden.jpg").write_text("no image")
    named = pictures / "picture.dat"
    write_picture(named, 2)
    code = run(server, pictures, named, pictures / "a.PNG", "--json")
    captured = capsys.readouterr()
    names = sorted(Path(json.loads(line)["path"]).name for line in captured.out.splitlines())
    assert code == ExitCode.OK
    assert names == ["a.PNG", "b.heic", "picture.dat"], "a file named twice is analysed once"
    assert "Skipped 3 file(s)" in captured.err


def test_patterns_are_expanded(server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "x").mkdir()
    for name in ("a.png", "b.png", "x/c.png", "d.jpg"):
        write_picture(pictures / name)
    assert run(server, f"{pictures}/**/*.png", "--json") == ExitCode.OK
    assert set(json_lines(capsys)) == {"a.png", "b.png", "c.png"}


def test_a_name_that_looks_like_a_pattern_is_taken_literally(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(pictures / "a[1].png")
    assert run(server, pictures / "a[1].png", "--json") == ExitCode.OK
    assert set(json_lines(capsys)) == {"a[1].png"}


@pytest.mark.parametrize(
    "arguments",
    [["analyze"], ["analyze", "--frobnicate", "x"], ["analyze", "/nonexistent"], ["analyze", "/x/*.jpg"], []],
)
def test_usage_errors_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.err or "Usage" in captured.out


def test_a_folder_without_images_exits_2_and_says_what_counts(
    pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "notes.txt").write_text("no image")
    assert main(["analyze", str(pictures)]) == ExitCode.USAGE
    assert ".jpeg" in capsys.readouterr().err


def test_an_address_without_a_coordinator_exits_3(pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = write_picture(pictures / "a.png")
    code = main(["analyze", str(picture), "--address", f"unix:{pictures}/none.sock"])
    assert code == ExitCode.UNREACHABLE
    assert "Start the services" in capsys.readouterr().err


def test_what_is_no_address_exits_2(pictures: Path) -> None:
    assert main(["analyze", str(write_picture(pictures / "a.png")), "--address", "nonsense"]) == ExitCode.USAGE


def test_the_environment_names_the_coordinator(
    server: ServerThread, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(target.ADDRESS_VARIABLE, server.address)
    assert main(["analyze", str(write_picture(pictures / "a.png")), "--json"]) == ExitCode.OK


def test_no_model_is_an_error_that_names_both_ways_out(
    pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (target.ADDRESS_VARIABLE, target.MODEL_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(target, "DEVELOPMENT_MODEL", Path("models", "not-prepared"))
    monkeypatch.setattr(target, "DEFAULT_ADDRESS", f"unix:{pictures}/none.sock")
    assert main(["analyze", str(write_picture(pictures / "a.png"))]) == ExitCode.USAGE
    error = " ".join(capsys.readouterr().err.split())
    assert "llm-service prepare-model" in error
    assert "--no-llm" in error


def test_no_llm_is_handed_on(server: ServerThread, pictures: Path) -> None:
    picture = write_picture(pictures / "a.png")
    run(server, picture, "--no-llm")
    run(server, picture)
    assert [options.skip_llm for options in server.coordinator.options] == [True, False]


def test_llm_wait_and_the_language_are_handed_on(server: ServerThread, pictures: Path) -> None:
    picture = write_picture(pictures / "a.png")
    run(server, picture, "--llm-wait", "20", "--lang", "ko")
    run(server, picture)
    seen = [(options.llm_wait_seconds, options.language) for options in server.coordinator.options]
    assert seen == [(20, "ko"), (0, "en")]


def test_quiet_prints_one_line_per_picture_and_nothing_else(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (pictures / "notes.txt").touch()
    write_picture(pictures / "a.png")
    assert run(server, pictures, "--quiet") == ExitCode.OK
    captured = capsys.readouterr()
    assert captured.out == f"Manipulated\t0.930\t{pictures}/a.png\n"
    assert captured.err == ""


def test_labels_come_in_korean(server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(server, write_picture(pictures / "a.png"), "--lang", "ko") == ExitCode.OK
    assert "조작됨" in capsys.readouterr().out


def test_out_writes_reports_maps_pages_and_an_index(
    server: ServerThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, name in enumerate(("a", "fail", "b")):
        write_picture(pictures / f"{name}.png", seed)
    out = tmp_path / "deep" / "out"
    assert run(server, pictures, "--out", out, "--json") == ExitCode.ITEMS_FAILED
    document = json_lines(capsys)["a.png"]
    validate(document)
    name = document["tools"][0]["findings"][0]["heat_map"]["file"]
    assert Image.open(out / name).size == (8, 6)
    stored = json.loads((out / document["html_file"]).with_suffix(".json").read_text("utf-8"))
    assert stored == document
    page = (out / document["html_file"]).read_text("utf-8")
    assert "data:image/jpeg;base64," in page
    assert page.count("data:image/png;base64,") == 1, "the map is embedded once"
    assert page.count("#map-1") == 1, "and shown in the gallery too"
    index = (out / "index.html").read_text("utf-8")
    assert f'href="{document["html_file"]}"' in index
    assert "NOT_AN_IMAGE" in index
    assert not list(out.glob(".*")), "no temporary files are left"


def test_the_index_covers_what_was_done_before_the_coordinator_was_lost(
    server: ServerThread, pictures: Path, tmp_path: Path
) -> None:
    paths = [write_picture(pictures / f"{name}.png", seed) for seed, name in enumerate(("a", "crash"))]
    assert run(server, *paths, "--out", tmp_path / "out", "--concurrency", "1") == ExitCode.UNREACHABLE
    index = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "a.png" in index
    assert "BACKEND_UNAVAILABLE" in index


def test_out_that_cannot_be_written_exits_2(
    server: ServerThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    picture = write_picture(pictures / "a.png")
    assert run(server, picture, "--out", tmp_path / "file" / "out") == ExitCode.USAGE
    assert "--out" in capsys.readouterr().err


def test_two_pictures_of_one_name_and_content_do_not_share_files(
    server: ServerThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("x", "y"):
        (pictures / folder).mkdir()
        write_picture(pictures / folder / "a.png")
    assert run(server, pictures, "--out", tmp_path / "out", "--json") == ExitCode.OK
    pages = {json.loads(line)["html_file"] for line in capsys.readouterr().out.splitlines()}
    assert len(pages) == 2
    assert all((tmp_path / "out" / page).exists() for page in pages)


def test_a_hostile_file_name_cannot_leave_the_folder_or_steer_the_terminal(
    server: ServerThread, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_picture(pictures / "\x1b[2J..\u202e<script>.png")
    out = tmp_path / "out"
    assert run(server, pictures, "--out", out) == ExitCode.OK
    assert "\x1b" not in capsys.readouterr().out
    assert all(path.parent == out and path.name.isprintable() for path in out.iterdir())
    assert run(server, pictures, "--json") == ExitCode.OK
    line = capsys.readouterr().out
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert json.loads(line)["path"].endswith("\x1b[2J..\u202e<script>.png")


def test_names_that_are_no_utf_8_are_analysed(
    server: ServerThread, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.rename(os.fsencode(write_picture(pictures / "a.png")), os.fsencode(pictures) + b"/\xff\xfe.png")  # noqa: PTH104
    assert run(server, pictures, "--json", "--out", pictures / "out") == ExitCode.OK
    validate(json.loads(capsys.readouterr().out))


def test_status_shows_backends(server: ServerThread, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--address", server.address]) == ExitCode.OK
    text = capsys.readouterr().out
    assert "frequency 0.1.0" in text
    assert "1 min 15 s" in text
    assert main(["status", "--address", server.address, "--json"]) == ExitCode.OK
    document = json.loads(capsys.readouterr().out)
    assert [backend["state"] for backend in document["backends"]] == ["serving", "serving"]
    assert document["limits"]["max_items_per_stream_count"] == MAX_OPEN_ITEMS


def test_status_without_a_coordinator_exits_3(tmp_path: Path) -> None:
    assert main(["status", "--address", f"unix:{tmp_path}/none.sock"]) == ExitCode.UNREACHABLE


def test_a_fault_of_the_program_exits_4(
    server: ServerThread, pictures: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("coordinator.cli.analyze.report_document", lambda *_, **__: 1 / 0)
    assert run(server, write_picture(pictures / "a.png"), "--json") == ExitCode.INTERNAL
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_help_and_version_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["analyze", "--help"], ["status", "--help"], ["--version"]):
        assert main(arguments) == ExitCode.OK
    text = capsys.readouterr().out
    assert "--llm-wait" in text
    assert "coordinator-cli 0." in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_exits_130_and_says_how_far_it_came(
    server: ServerThread, pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    write_picture(pictures / "a.png")
    write_picture(pictures / "b.png", 2)
    write_picture(pictures / "slow.png", 1)
    command = [
        sys.executable,
        "-m",
        "coordinator.cli",
        "analyze",
        str(pictures),
        "--json",
        "--out",
        str(tmp_path / "out"),
    ]
    process = subprocess.Popen(
        [*command, "--address", server.address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()
    process.stdout.readline()
    deadline = time.monotonic() + 10
    while "slow.png" not in server.coordinator.received and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == ExitCode.INTERRUPTED
    assert json.loads(first)["status"] == "ok"
    assert "2 of 3 pictures are done" in errors
    assert "b.png" in (tmp_path / "out" / "index.html").read_text("utf-8")
    assert "Traceback" not in errors
