"""The inventory, the plan and the check of a host whose driver is a fake library with NVML's interface."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from serving.errors import ExitCode
from tests.serving import fake_nvml

CLI = ("-m", "coordinator.cli", "gpu")
DUMP = """
import dataclasses, json
from serving.gpu.inventory import take_inventory
print(json.dumps(dataclasses.asdict(take_inventory())))
"""


@pytest.fixture(name="driver", scope="module")
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


def check(driver: Path, code: int, **properties: object) -> dict[str, Any]:
    result = fake_nvml.run(driver, *CLI, "check", "--json", **properties)
    assert result.returncode == code, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def codes(document: dict[str, Any]) -> dict[str, str]:
    return {finding["code"]: finding["message"] for finding in document["findings"]}


def test_the_inventory_tells_index_from_minor(driver: Path) -> None:
    result = fake_nvml.run(driver, "-c", DUMP, minors="1,0,2,3", pids="0,0,0,4711", used="0,0,0,4096")
    table = json.loads(result.stdout)
    assert [(gpu["index"], gpu["minor"]) for gpu in table["gpus"]] == [(0, 1), (1, 0), (2, 2), (3, 3)]
    last = table["gpus"][3]
    assert last["uuid"] == "GPU-0badc0de-0000-4000-8000-000000000003"
    assert last["pci_bus_id"] == "00000000:07:00.0"
    assert last["total_bytes"] == (40960 - 614) << 20
    assert last["bandwidth_bytes_per_s"] == pytest.approx(1.555e12, rel=1e-3)
    assert last["processes"] == [{"pid": 4711, "used_bytes": 4096 << 20}]
    assert table["cuda_version"] == [13, 0]


def test_an_older_driver_without_the_newer_memory_call_is_read_too(driver: Path) -> None:
    table = json.loads(fake_nvml.run(driver, "-c", DUMP, old=1, ecc="-1,-1,-1,-1").stdout)
    assert table["gpus"][0]["total_bytes"] == 40960 << 20
    assert table["gpus"][0]["uncorrected_ecc_errors"] is None


def test_this_host_is_planned_and_its_drop_ins_are_written(driver: Path, tmp_path: Path) -> None:
    arguments = (*CLI, "apply", "--layout", "3+1 PP=3 bf16", "--dir", str(tmp_path))
    dry = fake_nvml.run(driver, *arguments, minors="1,0,2,3")
    assert dry.returncode == ExitCode.OK, dry.stderr
    assert "+DeviceAllow=/dev/char/195:3 rw" in dry.stdout
    assert list(tmp_path.iterdir()) == []
    fake_nvml.run(driver, *arguments, "--write", minors="1,0,2,3")
    vision = (tmp_path / "maifs-vision.service.d" / "10-gpu.conf").read_text()
    assert "CUDA_VISIBLE_DEVICES=GPU-0badc0de-0000-4000-8000-000000000003\n" in vision
    assert "nothing to change" in fake_nvml.run(driver, *arguments, minors="1,0,2,3").stdout


def test_a_saved_profile_plans_the_same_elsewhere(driver: Path, tmp_path: Path) -> None:
    path = tmp_path / "host.json"
    here = fake_nvml.run(driver, *CLI, "plan", "--json", "--save-host", str(path))
    there = fake_nvml.run(Path("/nonexistent"), *CLI, "plan", "--json", "--host", str(path))
    assert json.loads(here.stdout)["options"] == json.loads(there.stdout)["options"]


def test_a_host_without_a_driver_is_told_so(driver: Path) -> None:
    plan = fake_nvml.run(driver, *CLI, "plan", init=9)
    assert plan.returncode == ExitCode.UNREACHABLE
    assert "Driver Not Loaded" in plan.stderr
    assert "--host 4xA100-40GB" in plan.stderr
    assert "NO_DRIVER" in codes(check(driver, ExitCode.UNREACHABLE, init=9))


def test_a_lost_gpu_is_a_fault(driver: Path) -> None:
    assert "GPU is lost" in codes(check(driver, ExitCode.ITEMS_FAILED, lost=2))["GPU_LOST"]


def test_planted_faults_are_found_on_their_gpus(driver: Path) -> None:
    document = check(
        driver, ExitCode.ITEMS_FAILED, ecc="0,0,2,0", throttle="0,0x40,0,0", mig="0,0,0,1", compute_mode="2,0,0,0"
    )
    found = codes(document)
    assert "GPU 2" in found["ECC_ERRORS"]
    assert "2 uncorrected" in found["ECC_ERRORS"]
    assert "GPU 1" in found["THROTTLED"]
    assert "GPU 3" in found["MIG"]
    assert "GPU 0" in found["NO_COMPUTE"]


def test_an_error_in_the_kernel_s_log_is_found_on_its_gpu(driver: Path) -> None:
    log = driver / "journalctl"
    log.write_text('#!/bin/sh\ncase "$*" in *--dmesg*) echo "NVRM: Xid (PCI:0000:06:00): 79, pid=7";; esac\n')
    log.chmod(0o755)
    try:
        found = codes(check(driver, ExitCode.ITEMS_FAILED))
    finally:
        log.unlink()
    assert found["XID"] == "GPU 2 reported Xid 79 since the host booted: GPU has fallen off the bus."


def test_a_foreign_process_is_named_with_its_cure(driver: Path) -> None:
    document = check(driver, ExitCode.ITEMS_FAILED, pids=f"0,0,0,{os.getpid()}", used="0,0,0,4096")
    finding = next(finding for finding in document["findings"] if finding["code"] == "FOREIGN_PROCESS")
    assert f"GPU 3 is held by process {os.getpid()}" in finding["message"]
    assert str(os.getpid()) in finding["cure"] or "systemctl stop" in finding["cure"]
    assert document["gpus"][3]["processes"][0]["pid"] == os.getpid()


def test_missing_device_nodes_are_named(driver: Path) -> None:
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this host has an NVIDIA driver")
    message = codes(check(driver, ExitCode.ITEMS_FAILED))["NODE_MISSING"]
    assert "/dev/nvidia0, /dev/nvidia1, /dev/nvidia2, /dev/nvidia3, /dev/nvidiactl, /dev/nvidia-uvm" in message


def test_the_table_for_people_names_gpus_and_faults(driver: Path) -> None:
    result = fake_nvml.run(driver, *CLI, "check", ecc="0,0,2,0", minors="1,0,2,3")
    assert result.returncode == ExitCode.ITEMS_FAILED
    for part in ("Driver 580.105.08", "nvidia1", "fault ECC_ERRORS", "GPU-0badc0de-0000-4000-8000-000000000002"):
        assert part in result.stdout
