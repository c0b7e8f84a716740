"""The whole product under a real systemd: installed, started, used, killed, hung, checked and removed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.model import prepared_model
from tests.serving import fake_nvml
from tests.system.booted import SHARED, SOURCE, VENV, Booted, boot
from tests.system.test_systemd_boot import DRIVER, MAKE_NODES, MAKE_PEOPLE, write_dropins

VISION, LLM, COORDINATOR = "maifs-vision.service", "maifs-llm.service", "maifs-coordinator.service"
UNITS = (VISION, LLM, COORDINATOR)
CLI = f"{VENV}/bin/coordinator-cli"
LOADS_S = 240.0
"""The engine loads in 30 s on two idle cores."""
CPU_ENGINE = (
    "MAIFS_LLM_TENSOR_PARALLEL_SIZE=1 MAIFS_LLM_PIPELINE_PARALLEL_SIZE=1 MAIFS_LLM_MAX_MODEL_LEN_TOKENS_COUNT=2560"
)

pytestmark = pytest.mark.engine


@pytest.fixture(name="system", scope="module")
def _system() -> Iterator[Booted]:
    model = f"{SOURCE}/{prepared_model().relative_to(ROOT)}"
    with boot() as system:
        system.install()
        folder = system.shared / "dropins"
        write_dropins(folder, watchdog_s=30)
        (folder / f"{LLM}.d" / "90-test.conf").write_text(
            f"[Service]\nEnvironment={DRIVER} {CPU_ENGINE} MAIFS_LLM_MODEL={model}\nWatchdogSec=40\nTimeoutAbortSec=1\n"
            "RestartSec=200ms\n"
        )
        (system.shared / "driver").mkdir()
        fake_nvml.build(system.shared / "driver")
        system.shell(f"cp -r {SHARED}/dropins/* /etc/systemd/system/\n{MAKE_NODES}\n{MAKE_PEOPLE}")
        system.run("systemctl", "start", "--no-block", "maifs.target")
        yield system


def processes(system: Booted, unit: str) -> set[str]:
    return set(system.shell(f"cat /sys/fs/cgroup{system.show(unit, 'ControlGroup')}/cgroup.procs").split())


def alive(system: Booted, pids: set[str]) -> str:
    return system.shell(f"for pid in {' '.join(sorted(pids))}; do test -e /proc/$pid && echo $pid || true; done")


def wait_gone(system: Booted, pids: set[str], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while (left := alive(system, pids)) and time.monotonic() < end:
        time.sleep(0.1)
    assert left == ""


def test_the_three_services_become_ready_and_tell_how_they_are_pinned(system: Booted) -> None:
    seen = set()
    end = time.monotonic() + LOADS_S
    while (state := system.show(LLM, "ActiveState")) != "active" and time.monotonic() < end:
        assert state == "activating", system.journal(LLM)
        seen.add(system.show(LLM, "StatusText"))
        time.sleep(0.5)
    assert any(text.startswith("starting, ") for text in seen)
    for unit in UNITS:
        system.wait_for(unit, "ActiveState", "active")
    assert system.show(LLM, "StatusText") == "serving; GPU pin enforced: /dev/nvidia2 refused"
    backends = json.loads(system.run(CLI, "status", "--json").stdout)["backends"]
    assert {backend["name"]: (backend["state"], backend["gpu_pin"]) for backend in backends} == {
        "vision": ("serving", "enforced"),
        "llm": ("serving", "enforced"),
    }


def test_a_member_of_the_group_gets_a_picture_explained(system: Booted, picture: Path) -> None:
    (system.shared / "photo.jpg").write_bytes(picture.read_bytes())
    command = ("runuser", "-u", "alice", "--", "/usr/local/bin/coordinator-cli", "analyze", "--json")
    report = json.loads(system.run(*command, f"{SHARED}/photo.jpg", timeout_s=180).stdout)
    assert report["verdict"]
    assert report["explanation"]


def check(system: Booted, code: int, pids: list[str], **properties: object) -> dict[str, object]:
    used = ",".join("4096" if pid != "0" else "0" for pid in pids)
    variables = {"pids": ",".join(pids), "used": used, "minors": "1,0,3,2", **properties}
    env = {f"FAKE_NVML_{name.upper()}": str(value) for name, value in variables.items()}
    result = system.run(CLI, "gpu", "check", "--json", env={"LD_LIBRARY_PATH": f"{SHARED}/driver", **env}, check=False)
    document: dict[str, object] = json.loads(result.stdout)
    assert result.returncode == code, document["findings"]
    return document


def holders(system: Booted) -> list[str]:
    """Which process holds which GPU when all is as planned: the language model 0 to 2, vision 3."""
    engine = sorted(processes(system, LLM), key=int)
    return [*(engine[i % len(engine)] for i in range(3)), system.show(VISION, "MainPID")]


def codes(document: dict[str, object]) -> set[str]:
    findings = document["findings"]
    assert isinstance(findings, list)
    return {finding["code"] for finding in findings if finding["severity"] == "fault"}


def test_gpu_check_proves_the_language_model_on_0_to_2_and_vision_on_3(system: Booted) -> None:
    document = check(system, 0, holders(system))
    assert document["roles"] == {LLM: [0, 1, 2], VISION: [3]}
    units = document["units"]
    assert isinstance(units, list)
    assert {unit["name"]: (unit["pin"], unit["health"]) for unit in units} == {
        VISION: ("enforced: /dev/nvidia0, /dev/nvidia1, /dev/nvidia3 refused", "serving"),
        LLM: ("enforced: /dev/nvidia2 refused", "serving"),
        COORDINATOR: (None, "serving"),
    }


def test_gpu_check_shows_each_fault_that_is_planted(system: Booted) -> None:
    good = holders(system)
    assert {"WRONG_GPU"} <= codes(check(system, 1, [*good[:3], good[0]]))
    assert {"FOREIGN_PROCESS"} <= codes(check(system, 1, [*good[:3], "1"]))
    assert {"ECC_ERRORS", "MIG"} <= codes(check(system, 1, good, ecc="0,0,2,0", mig="0,0,0,1"))
    assert {"PIN_DRIFT"} <= codes(check(system, 1, good, minors="0,1,2,3"))
    assert {"UNSEEN_PROCESS"} <= codes(check(system, 1, [*good[:3], "0"], used="0,0,0,4096"))


@pytest.mark.parametrize("unit", [VISION, COORDINATOR, LLM])
def test_a_killed_service_comes_back_and_leaves_no_process(system: Booted, unit: str) -> None:
    before, restarts = processes(system, unit), int(system.show(unit, "NRestarts"))
    assert len(before) > (1 if unit == LLM else 0), "the engine has a process of its own"
    system.shell(f"kill -KILL {system.show(unit, 'MainPID')}")
    wait_gone(system, before)
    system.wait_for(unit, "NRestarts", str(restarts + 1))
    system.wait_for(unit, "ActiveState", "active", timeout_s=LOADS_S)


def test_an_engine_that_hangs_is_ended_with_its_service(system: Booted) -> None:
    before, restarts = processes(system, LLM), int(system.show(LLM, "NRestarts"))
    for pid in before - {system.show(LLM, "MainPID")}:
        system.shell(f"kill -STOP {pid}")
    wait_gone(system, before, timeout_s=90)
    assert "watchdog" in system.journal(LLM).lower()
    system.wait_for(LLM, "NRestarts", str(restarts + 1))
    system.wait_for(LLM, "ActiveState", "active", timeout_s=LOADS_S)


def test_the_target_stops_and_leaves_nothing(system: Booted) -> None:
    system.run("systemctl", "stop", "maifs.target", timeout_s=90)
    for unit in UNITS:
        system.wait_for(unit, "ActiveState", "inactive")
        assert system.show(unit, "Result") == "success"
    assert system.shell("ls /run/maifs | grep -c sock$ || true").strip() == "0"
    assert system.shell("ps -e -o comm | grep -c -e VLLM -e maifs || true").strip() == "0"


def test_uninstalling_removes_units_and_drop_ins_and_keeps_the_settings(system: Booted) -> None:
    system.run(CLI, "uninstall")
    assert system.show("maifs.target", "LoadState") == "not-found"
    assert "10-gpu.conf" not in system.shell("find /etc/systemd/system -name '*.conf'")
    system.shell("test -e /etc/maifs/maifs.toml && test ! -e /usr/local/bin/coordinator-cli")
