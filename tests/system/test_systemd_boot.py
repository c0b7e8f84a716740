"""The installed units under a real systemd: pinned, ready, reachable by the group, restarted, drained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from serving.gpu import dropins
from serving.gpu.hosts import Host, parse_host
from serving.gpu.plan import Assumptions, make_plan
from serving.known_models import find_shape
from serving.model_shapes import Quantization
from tests.serving import fake_nvml
from tests.system.booted import SHARED, SOURCE, Booted, boot

VISION, COORDINATOR, FURTHER = "maifs-vision.service", "maifs-coordinator.service", "maifs-vision@3.service"
DRIVER = f"LD_LIBRARY_PATH={SHARED}/driver FAKE_NVML_MINORS=1,0,3,2"
PEER = "/opt/maifs/venv/bin/coordinator-cli"
MAKE_NODES = """
for i in 0 1 2 3; do mknod -m 666 /dev/nvidia$i c 195 $i; done; mknod -m 666 /dev/nvidiactl c 195 255
mknod -m 666 /dev/nvidia-uvm c 511 0
"""
MAKE_PEOPLE = """
useradd --no-create-home --groups maifs alice; useradd --no-create-home mallory
systemctl daemon-reload
"""
PREPARE = f"""
cp -r {SHARED}/dropins/* /etc/systemd/system/
{MAKE_NODES}{MAKE_PEOPLE}
ln -sf /dev/null /etc/systemd/system/maifs-llm.service
systemctl daemon-reload
"""


def write_dropins(folder: Path, watchdog_s: int, title: str = "3+1 PP=3 bf16") -> None:
    """The plan of a host whose minors are not its indexes, and what the tests change: no CUDA, a quick watchdog."""
    host = parse_host("4xA100-40GB")
    gpus = tuple(
        replace(gpu, index=index, minor=minor, uuid=f"GPU-0badc0de-0000-4000-8000-{index:012d}")
        for index, (gpu, minor) in enumerate(zip(host.gpus, (1, 0, 3, 2), strict=True))
    )
    shape = find_shape("Qwen2.5-32B-Instruct")
    plan = make_plan(Host("test", gpus), shape, tuple(Quantization), Assumptions())
    option = next(option for option in plan.options if option.layout.title == title)
    dropins.write(folder, dropins.dropins(option, plan))
    for unit in (VISION, COORDINATOR, FURTHER):
        path = folder / f"{unit}.d" / "90-test.conf"
        path.parent.mkdir(exist_ok=True)
        times = f"WatchdogSec={watchdog_s}\nTimeoutAbortSec=1\nRestartSec=200ms\n"
        path.write_text(f"[Service]\nEnvironment=MAIFS_VISION_DEVICE=cpu {DRIVER}\n{times}")


@pytest.fixture(name="system", scope="module")
def _system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    with boot() as system:
        write_dropins(system.shared / "dropins", watchdog_s=5)
        driver = system.shared / "driver"
        driver.mkdir()
        fake_nvml.build(driver)
        system.install()
        system.shell(PREPARE)
        system.run("systemctl", "start", "--no-block", "maifs.target")
        for unit in (VISION, COORDINATOR):
            system.wait_for(unit, "ActiveState", "active", timeout_s=90)
        yield system


def main_pid(system: Booted, unit: str) -> int:
    return int(system.show(unit, "MainPID"))


def signal_and_wait(system: Booted, unit: str, name: str) -> int:
    """Sends a signal to the main process and waits until another one serves; returns the one that was ended."""
    before, restarts = main_pid(system, unit), int(system.show(unit, "NRestarts"))
    system.shell(f"kill -{name} {before}")
    system.wait_for(unit, "NRestarts", str(restarts + 1))
    system.wait_for(unit, "ActiveState", "active")
    assert main_pid(system, unit) not in {0, before}
    return before


def test_ready_services_tell_their_status(system: Booted) -> None:
    assert system.show(VISION, "StatusText") == (
        "serving; GPU pin enforced: /dev/nvidia0, /dev/nvidia1, /dev/nvidia3 refused"
    )
    assert system.show(COORDINATOR, "StatusText") == "serving"


def test_the_journal_has_the_services_fields(system: Booted) -> None:
    """The unit's own lines by field, the way an operator follows one request."""
    found = system.shell(f"journalctl -o json MAIFS_LOGGER=serving.gpu.session _SYSTEMD_UNIT={VISION} --no-pager")
    entry = json.loads(found.splitlines()[-1])
    assert (entry["MAIFS_STATE"], entry["PRIORITY"], entry["SYSLOG_IDENTIFIER"]) == ("enforced", "6", "vision-service")


def test_the_kernel_refuses_vision_every_gpu_but_its_own(system: Booted) -> None:
    group = system.show(VISION, "ControlGroup")
    probe = f"cd {SOURCE}; /opt/maifs/venv/bin/python -m serving.gpu.probe_process /sys/fs/cgroup{group} 2"
    proof = json.loads(system.shell(probe))
    assert proof == {"state": "enforced", "denied": [0, 1, 3], "reachable": [], "own_denied": []}


def test_a_process_outside_of_the_unit_is_not_bound(system: Booted) -> None:
    script = f"cd {SOURCE}; /opt/maifs/venv/bin/python -c 'from serving.gpu.pin import probe; print(probe([2]).state)'"
    assert system.shell(script).strip() == "advisory"


def check(system: Booted, **properties: object) -> dict[str, object]:
    variables = {f"FAKE_NVML_{name.upper()}": str(value) for name, value in properties.items()}
    env = {"LD_LIBRARY_PATH": f"{SHARED}/driver", "FAKE_NVML_MINORS": "1,0,3,2", **variables}
    result = system.run(PEER, "gpu", "check", "--json", env=env, check=False)
    document: dict[str, object] = json.loads(result.stdout)
    return document


def test_gpu_check_proves_the_pin_and_measures_who_holds_what(system: Booted) -> None:
    document = check(system, pids=f"0,0,0,{main_pid(system, VISION)}")
    assert document["roles"] == {VISION: [3]}
    units = {unit["name"]: unit for unit in document["units"]}  # type: ignore[attr-defined]
    assert units[VISION]["pin"] == "enforced: /dev/nvidia0, /dev/nvidia1, /dev/nvidia3 refused"
    assert units[VISION]["cuda"]["CUDA_VISIBLE_DEVICES"] == "GPU-0badc0de-0000-4000-8000-000000000003"
    codes = {finding["code"] for finding in document["findings"]}  # type: ignore[attr-defined]
    assert not codes & {"NOT_PINNED", "PIN_DRIFT", "PIN_ADVISORY", "PIN_VIOLATED", "WRONG_GPU", "FOREIGN_PROCESS"}


def test_gpu_check_finds_vision_on_a_gpu_of_the_language_model(system: Booted) -> None:
    document = check(system, pids=f"{main_pid(system, VISION)},0,0,0")
    codes = {finding["code"] for finding in document["findings"]}  # type: ignore[attr-defined]
    assert "WRONG_GPU" in codes


def test_gpu_check_finds_a_policy_that_was_widened_while_the_unit_runs(system: Booted) -> None:
    system.run("systemctl", "set-property", "--runtime", VISION, "DeviceAllow=/dev/char/195:0 rw")
    try:
        codes = {finding["code"] for finding in check(system)["findings"]}  # type: ignore[attr-defined]
        assert {"PIN_DRIFT"} <= codes
    finally:
        system.shell("rm -rf /run/systemd/system.control/maifs-vision.service.d; systemctl daemon-reload")


def test_a_member_of_the_group_analyses_a_picture_and_others_do_not(system: Booted, picture: Path) -> None:
    shared = system.shared / "photo.jpg"
    shared.write_bytes(picture.read_bytes())
    arguments = (PEER, "analyze", "--no-llm", "--json", "--address", "unix:/run/maifs/coordinator.sock")
    allowed = system.run("runuser", "-u", "alice", "--", *arguments, f"{SHARED}/photo.jpg", timeout_s=90)
    assert json.loads(allowed.stdout)["verdict"]
    refused = system.run("runuser", "-u", "mallory", "--", *arguments, f"{SHARED}/photo.jpg", check=False)
    assert refused.returncode == 3


def test_clients_can_neither_replace_nor_remove_a_socket(system: Booted) -> None:
    for command in ("rm -f /run/maifs/vision.sock", "touch /run/maifs/new.sock"):
        assert system.run("runuser", "-u", "alice", "--", "sh", "-c", command, check=False).returncode != 0


@pytest.mark.parametrize("unit", [VISION, COORDINATOR])
def test_a_killed_service_comes_back_and_leaves_no_process(system: Booted, unit: str) -> None:
    before = signal_and_wait(system, unit, "KILL")
    processes = system.shell(f"cat /sys/fs/cgroup$(systemctl show --value -p ControlGroup {unit})/cgroup.procs").split()
    assert str(before) not in processes
    assert system.show(unit, "StatusText").startswith("serving")


def test_a_hung_service_is_ended_by_the_watchdog(system: Booted) -> None:
    signal_and_wait(system, COORDINATOR, "STOP")
    assert "watchdog" in system.journal(COORDINATOR).lower()


def test_vision_refuses_to_serve_without_the_pin_that_it_needs(system: Booted) -> None:
    path = "/etc/systemd/system/maifs-vision.service.d/95-open.conf"
    system.shell(f"printf '[Service]\\nDevicePolicy=auto\\nDeviceAllow=\\n' > {path}; systemctl daemon-reload")
    try:
        system.run("systemctl", "restart", VISION, check=False)
        assert system.show(VISION, "ActiveState") == "failed"
        assert system.show(VISION, "ExecMainStatus") == "2"
        assert "can be opened too" in system.show(VISION, "StatusText") + system.journal(VISION)
    finally:
        system.shell(f"rm {path}; systemctl daemon-reload; systemctl start {VISION}")
    assert system.show(VISION, "ActiveState") == "active"


def test_two_gpus_for_vision_are_two_pinned_services_behind_one_coordinator(system: Booted) -> None:
    write_dropins(system.shared / "two", 5, "2+2 TP=2 bf16")
    system.shell(f"cp -r {SHARED}/two/* /etc/systemd/system/; systemctl daemon-reload; systemctl restart maifs.target")
    for unit in (VISION, FURTHER, COORDINATOR):
        system.wait_for(unit, "ActiveState", "active", timeout_s=90)
    pins = [system.show(unit, "StatusText").partition("pin ")[2] for unit in (VISION, FURTHER)]
    assert pins == [
        "enforced: /dev/nvidia0, /dev/nvidia1, /dev/nvidia2 refused",
        "enforced: /dev/nvidia0, /dev/nvidia1, /dev/nvidia3 refused",
    ]
    backends = json.loads(system.run(PEER, "status", "--json").stdout)["backends"]
    assert [(one["address"], one["state"], one["gpu_pin"]) for one in backends if one["name"] == "vision"] == [
        ("unix:/run/maifs/vision.sock", "serving", "enforced"),
        ("unix:/run/maifs/vision-3.sock", "serving", "enforced"),
    ]
    document = check(system, pids=f"0,0,{main_pid(system, VISION)},{main_pid(system, FURTHER)}")
    assert document["roles"] == {VISION: [2], FURTHER: [3]}
    assert not {"WRONG_GPU", "SHARED_GPU", "PIN_DRIFT", "FOREIGN_PROCESS"} & {
        finding["code"]
        for finding in document["findings"]  # type: ignore[attr-defined]
    }


def test_stopping_the_target_drains_and_removes_the_sockets(system: Booted) -> None:
    system.run("systemctl", "stop", "maifs.target")
    for unit in (VISION, FURTHER, COORDINATOR):
        system.wait_for(unit, "ActiveState", "inactive")
        assert system.show(unit, "Result") == "success"
    assert system.shell("ls /run/maifs | grep -c sock$ || true").strip() == "0"
