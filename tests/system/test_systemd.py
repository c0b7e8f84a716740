"""The units, sysusers and settings that are installed on a host, judged by systemd's own tools."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.config import CoordinatorConfig
from llm_service.config import LlmConfig
from serving.config import load_config
from serving.errors import MaifsError
from serving.gpu import dropins
from serving.gpu.hosts import Host, parse_host
from serving.gpu.plan import Assumptions, Plan, make_plan
from serving.known_models import find_shape
from serving.model_shapes import Quantization
from tests.conftest import ROOT
from vision_service.config import VisionConfig

SYSTEMD = ROOT / "systemd"
SERVICES = ("maifs-vision.service", "maifs-vision@.service", "maifs-llm.service", "maifs-coordinator.service")
MOST_EXPOSURE = 1.5
MINORS = (1, 0, 2, 3)
"""Device minors of the GPUs 0 to 3: not their indexes."""


def planned() -> Plan:
    host = parse_host("4xA100-40GB")
    gpus = tuple(
        replace(gpu, index=index, minor=minor, uuid=f"GPU-00000000-0000-0000-0000-00000000000{index}")
        for index, (gpu, minor) in enumerate(zip(host.gpus, MINORS, strict=True))
    )
    return make_plan(Host("test", gpus), find_shape("Qwen2.5-32B-Instruct"), tuple(Quantization), Assumptions())


def files_of(title: str) -> dict[str, str]:
    plan = planned()
    option = next(option for option in plan.options if option.layout.title == title)
    return {str(path): text for path, text in dropins.dropins(option, plan).items()}


@pytest.fixture(name="units")
def _units(tmp_path: Path) -> Path:
    """The units with drop-ins of a plan; commands that are installed elsewhere are replaced by one that is here."""
    folder = tmp_path / "units"
    shutil.copytree(SYSTEMD / "units", folder)
    for path in folder.glob("*.service"):
        path.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", path.read_text(), flags=re.M))
    plan = planned()
    option = next(option for option in plan.options if option.layout.title == "3+1 PP=3 bf16")
    dropins.write(folder, dropins.dropins(option, plan))
    return folder


def analyze(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    environ = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:", "SYSTEMD_COLORS": "0"}
    return subprocess.run(["systemd-analyze", *arguments], env=environ, capture_output=True, text=True, timeout=60)


def settings(unit: str) -> list[tuple[str, str]]:
    lines = (SYSTEMD / "units" / unit).read_text().splitlines()
    return [(name, value) for name, _, value in (line.partition("=") for line in lines) if value or name]


def test_systemd_finds_no_fault_in_the_units(units: Path) -> None:
    files = [str(path) for path in sorted(units.iterdir()) if path.is_file()]
    result = analyze(units, "verify", *files)
    ours = [line for line in result.stderr.splitlines() if "maifs" in line or str(units) in line]
    assert (result.returncode, ours) == (0, [])


@pytest.mark.parametrize("service", SERVICES)
def test_a_unit_is_exposed_no_more_than_it_should_be(units: Path, service: str) -> None:
    result = analyze(units, "security", "--offline=true", "--no-pager", str(units / service))
    match = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert match, result.stderr
    assert float(match[1]) <= MOST_EXPOSURE


@pytest.mark.parametrize("service", SERVICES)
def test_no_unit_opens_devices_by_class_or_hides_those_it_needs(service: str) -> None:
    found = settings(service)
    allowed = [value for name, value in found if name == "DeviceAllow"]
    assert ("DevicePolicy", "closed") in found
    assert not any("char-nvidia*" in value or value.startswith("char-nvidia ") for value in allowed)
    if allowed:
        assert ("PrivateDevices", "yes") not in found
        assert "/dev/char/195:255 rw" in allowed
    for broken in ("MemoryDenyWriteExecute", "ProcSubset"):
        assert not any(name == broken for name, _ in found)


def test_a_further_vision_service_differs_in_name_and_sockets_alone() -> None:
    first, further = (
        (SYSTEMD / "units" / name).read_text() for name in ("maifs-vision.service", "maifs-vision@.service")
    )
    pairs = zip(first.splitlines(), further.splitlines(), strict=True)
    changed = [other for one, other in pairs if one != other]
    assert [line.partition("=")[0] for line in changed] == ["Description", "ExecStart", "Environment"]
    assert changed[1].endswith("--address unix:/run/maifs/vision-%i.sock")
    assert changed[2].endswith("=unix:/run/maifs/vision-%i-metrics.sock")


def test_the_coordinator_waits_for_vision_and_not_for_the_weights() -> None:
    after = " ".join(value for name, value in settings("maifs-coordinator.service") if name == "After")
    assert "maifs-vision.service" in after
    assert "maifs-llm.service" not in after


def test_no_engine_process_outlives_the_llm_service() -> None:
    assert ("KillMode", "mixed") in settings("maifs-llm.service")


def test_back_off_of_newer_systemd_is_kept_out_of_the_units() -> None:
    for service in SERVICES:
        assert not {"RestartSteps", "RestartMaxDelaySec"} & {name for name, _ in settings(service)}
    assert "RestartSteps=" in (SYSTEMD / "optional" / "restart-backoff.conf").read_text()


def test_drop_ins_allow_minors_and_name_uuids() -> None:
    files = files_of("3+1 PP=3 bf16")
    llm = files["maifs-llm.service.d/10-gpu.conf"]
    vision = files["maifs-vision.service.d/10-gpu.conf"]
    assert re.findall(r"DeviceAllow=/dev/char/195:(\d+) rw", llm) == ["1", "0", "2"]
    assert re.findall(r"DeviceAllow=/dev/char/195:(\d+) rw", vision) == ["3"]
    assert "CUDA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000003\n" in vision
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in llm


def test_drop_ins_set_what_the_llm_service_understands(tmp_path: Path) -> None:
    text = files_of("2+2 TP=2 fp8")["maifs-llm.service.d/10-gpu.conf"]
    environ = dict(re.findall(r'^Environment="([^=]+)=(.*)"$', text, flags=re.M))
    config = load_config(LlmConfig, "llm", path=SYSTEMD / "maifs.toml", environ=environ)
    assert (config.tensor_parallel_size, config.quantization, config.max_model_len_tokens_count) == (2, "fp8", 4096)


def test_drop_ins_of_a_padded_layout_with_offload_are_settings_too(tmp_path: Path) -> None:
    text = files_of("3+1 TP=3 bf16 + 20 GiB offload")["maifs-llm.service.d/10-gpu.conf"]
    environ = dict(re.findall(r'^Environment="([^=]+)=(.*)"$', text, flags=re.M))
    config = load_config(LlmConfig, "llm", path=SYSTEMD / "maifs.toml", environ=environ)
    assert (config.tensor_parallel_size, config.cpu_offload_gib, config.pad_heads) == (3, 20, "auto")


@pytest.mark.parametrize(
    ("title", "why"),
    [
        ("3+1 3 replicas fp8", "one engine"),
        ("2+2 TP=2 awq", "-AWQ"),
        ("3+1 3 replicas bf16", "do not fit"),
    ],
)
def test_a_layout_that_would_not_serve_is_not_written(title: str, why: str) -> None:
    with pytest.raises(MaifsError, match=why):
        files_of(title)


def test_two_gpus_for_vision_are_two_services_that_the_coordinator_uses() -> None:
    files = files_of("2+2 TP=2 bf16")
    first, further = (files[f"maifs-vision{name}.service.d/10-gpu.conf"] for name in ("", "@3"))
    assert re.findall(r"DeviceAllow=/dev/char/195:(\d+) rw", first + further) == ["2", "3"]
    assert "Wants=maifs-vision@3.service" in files["maifs.target.d/10-gpu.conf"]
    text = files["maifs-coordinator.service.d/10-gpu.conf"]
    environ = dict(re.findall(r'^Environment="([^=]+)=(.*)"$', text, flags=re.M))
    config = load_config(CoordinatorConfig, "coordinator", path=SYSTEMD / "maifs.toml", environ=environ)
    assert config.vision_address == ("unix:/run/maifs/vision.sock", "unix:/run/maifs/vision-3.sock")


def test_another_layout_removes_what_the_last_one_needed_and_nothing_else(tmp_path: Path) -> None:
    own = tmp_path / "maifs-vision@3.service.d" / "50-mine.conf"
    own.parent.mkdir()
    own.touch()
    plan = planned()
    two, one = (
        dropins.dropins(next(option for option in plan.options if option.layout.title == title), plan)
        for title in ("2+2 TP=2 bf16", "3+1 PP=3 bf16")
    )
    dropins.write(tmp_path, two)
    assert "-Wants=maifs-vision@3.service" in dropins.difference(tmp_path, one)
    dropins.write(tmp_path, one)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.conf")}
    assert left == {
        "maifs-vision@3.service.d/50-mine.conf",
        "maifs-vision.service.d/10-gpu.conf",
        "maifs-llm.service.d/10-gpu.conf",
    }
    assert dropins.difference(tmp_path, one) == ""


def test_a_described_host_has_no_drop_ins() -> None:
    plan = make_plan(parse_host("4xA100-40GB"), find_shape("Qwen2.5-32B-Instruct"), (Quantization.BF16,), Assumptions())
    option = next(option for option in plan.options if option.valid and option.served)
    with pytest.raises(MaifsError, match="UUIDs"):
        dropins.dropins(option, plan)


def test_writing_twice_changes_nothing(tmp_path: Path) -> None:
    plan = planned()
    option = next(option for option in plan.options if option.layout.title == "3+1 PP=3 bf16")
    files = dropins.dropins(option, plan)
    assert "+DevicePolicy=closed" in dropins.difference(tmp_path, files)
    dropins.write(tmp_path, files)
    assert dropins.difference(tmp_path, files) == ""


def test_the_example_settings_are_settings_of_the_services() -> None:
    path = SYSTEMD / "maifs.toml"
    assert set(tomllib.loads(path.read_text())) == {"vision", "llm", "coordinator"}
    for kind, section in ((VisionConfig, "vision"), (LlmConfig, "llm"), (CoordinatorConfig, "coordinator")):
        load_config(kind, section, path=path, environ={})


def test_every_user_and_group_of_a_unit_is_made() -> None:
    made = set(re.findall(r"^[ug]\s+(\S+)", (SYSTEMD / "sysusers.d" / "maifs.conf").read_text(), flags=re.M))
    for service in SERVICES:
        for name, value in settings(service):
            if name in {"User", "Group", "SupplementaryGroups"}:
                assert value in made


def test_sysusers_accepts_the_users(tmp_path: Path) -> None:
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers is not installed")
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(SYSTEMD / "sysusers.d" / "maifs.conf")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 0, result.stderr
    assert "maifs-vision" in result.stdout + result.stderr
