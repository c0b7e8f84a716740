"""Rules of the check: the good host proves itself, and each planted fault is found."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from serving.gpu.certificate import Certificate, read_certificate
from serving.gpu.diagnosis import diagnose, roles
from serving.gpu.findings import Severity
from serving.gpu.inventory import GpuProcess, Inventory
from serving.gpu.orphans import find_orphans
from serving.gpu.owners import Owner
from serving.gpu.pin import PinProof, PinState
from serving.gpu.service_health import Health, address_of
from serving.gpu.snapshot import Snapshot, Xid, parse_xids
from serving.gpu.units import Unit, parse_units
from tests.conftest import ROOT
from tests.serving.test_gpu_pin import HOST, uuid

LLM, VISION, COORDINATOR = "maifs-llm.service", "maifs-vision.service", "maifs-coordinator.service"
PIDS = {0: 100, 1: 101, 2: 102, 3: 200}
OWNERS = {pid: Owner(pid, LLM, "VLLM::Worker") for pid in (100, 101, 102)} | {200: Owner(200, VISION, "vision-service")}


def unit(name: str, pid: int, minors: tuple[int, ...], indexes: tuple[int, ...], policy: str = "closed") -> Unit:
    allow = (*(f"/dev/char/195:{minor} rw" for minor in minors), "/dev/char/195:255 rw", "char-nvidia-uvm rw")
    environment = {
        "CUDA_VISIBLE_DEVICES": ",".join(map(uuid, indexes)),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    group = f"/maifs.slice/{name}"
    return Unit(name, "loaded", "active", "running", "success", pid, 0, "serving", group, policy, allow, environment)


UNITS = (unit(LLM, 99, (1, 0, 2), (0, 1, 2)), unit(VISION, 200, (3,), (3,)), unit(COORDINATOR, 300, (), ()))


def host_with(pids: Mapping[int, tuple[int, ...]]) -> Inventory:
    gpus = tuple(
        replace(gpu, processes=tuple(GpuProcess(pid, 1 << 30) for pid in pids.get(gpu.index, ()))) for gpu in HOST.gpus
    )
    return replace(HOST, gpus=gpus)


GOOD = Snapshot(
    inventory=host_with({index: (pid,) for index, pid in PIDS.items()}),
    fault="",
    gpu_lost=False,
    owners=OWNERS,
    units=UNITS,
    environments={one.name: one.environment for one in UNITS[:2]},
    proofs={
        LLM: PinProof(PinState.ENFORCED, (3,), (), ()),
        VISION: PinProof(PinState.ENFORCED, (0, 1, 2), (), ()),
    },
    minors=(0, 1, 2, 3),
    has_control_node=True,
    has_uvm_node=True,
    xids=(),
    no_peer_access=((0, 3), (1, 3), (2, 3)),
    torch_cuda="13.0",
    health=dict.fromkeys((LLM, VISION, COORDINATOR), Health.SERVING),
    out_of_memory=frozenset(),
    orphans=(),
    certificate=None,
)


def codes(snapshot: Snapshot) -> dict[str, str]:
    return {finding.code: finding.message for finding in diagnose(snapshot)}


def with_unit(changed: Unit) -> Snapshot:
    units = tuple(changed if one.name == changed.name else one for one in UNITS)
    return replace(GOOD, units=units, environments={one.name: one.environment for one in units[:2]})


def test_the_four_gpu_host_as_planned_has_its_roles_and_no_finding() -> None:
    assert roles(GOOD) == {LLM: (0, 1, 2), VISION: (3,)}
    assert diagnose(GOOD) == ()


def test_the_language_model_on_all_four_gpus_is_found() -> None:
    snapshot = replace(
        GOOD,
        inventory=host_with({0: (100,), 1: (101,), 2: (102,), 3: (103, 200)}),
        owners={**OWNERS, 103: Owner(103, LLM, "VLLM::Worker")},
    )
    found = codes(snapshot)
    assert found["SHARED_GPU"] == f"GPU 3 is used by {LLM} and {VISION}."
    assert "uses GPU 3, which is not one of its own (0, 1, 2)" in found["WRONG_GPU"]


def test_a_stranger_on_the_vision_gpu_is_found_with_its_unit() -> None:
    snapshot = replace(
        GOOD,
        inventory=host_with({**{index: (pid,) for index, pid in PIDS.items()}, 3: (200, 666)}),
        owners={**OWNERS, 666: Owner(666, "jupyter.service", "python3")},
    )
    (finding,) = diagnose(snapshot)
    assert (finding.code, finding.cure) == (
        "FOREIGN_PROCESS",
        "systemctl stop jupyter.service; or plan without this GPU.",
    )


def test_an_engine_process_without_its_service_is_an_orphan() -> None:
    left = Owner(101, "", "VLLM::EngineCor")
    snapshot = replace(GOOD, owners={**OWNERS, 101: left}, orphans=(left,))
    (finding,) = diagnose(snapshot)
    assert (finding.code, finding.severity, finding.cure) == ("ORPHAN", Severity.FAULT, "kill 101")
    assert "GPU 1 is held by process 101" in finding.message


def test_the_engine_of_somebody_s_embedded_run_is_a_foreign_process() -> None:
    snapshot = replace(GOOD, owners={**OWNERS, 101: Owner(101, "session-3.scope", "VLLM::EngineCor")})
    assert list(codes(snapshot)) == ["FOREIGN_PROCESS"]


def test_minors_that_changed_at_boot_are_drift() -> None:
    found = codes(with_unit(unit(VISION, 200, (2,), (3,))))
    assert "may open the minors 2, but its GPUs have 3 now" in found["PIN_DRIFT"]


def test_a_policy_widened_by_hand_is_drift() -> None:
    assert "PIN_DRIFT" in codes(with_unit(unit(VISION, 200, (0, 3), (3,))))


@pytest.mark.parametrize(
    "changed",
    [
        replace(UNITS[1], device_policy="auto", device_allow=()),
        replace(UNITS[1], device_allow=("char-nvidia* rw",)),
        replace(UNITS[1], device_allow=("char-nvidia rw",)),
    ],
)
def test_a_unit_that_may_open_every_gpu_is_found(changed: Unit) -> None:
    assert "may open every GPU" in codes(with_unit(changed))["NOT_PINNED"]


def test_a_policy_that_the_kernel_does_not_enforce_is_found() -> None:
    proof = PinProof(PinState.ADVISORY, (), (0, 1, 2), ())
    assert "can be opened too" in codes(replace(GOOD, proofs={**GOOD.proofs, VISION: proof}))["PIN_ADVISORY"]


@pytest.mark.parametrize("visible", ["3", "GPU-1,2", None])
def test_an_index_in_the_running_environment_is_found(visible: str | None) -> None:
    variables = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    found = codes(replace(GOOD, environments={**GOOD.environments, VISION: variables}))
    assert set(found) - {"NOT_RESTARTED"} == {"NOT_BY_UUID"}


def test_a_missing_device_order_is_a_warning() -> None:
    variables = {"CUDA_VISIBLE_DEVICES": uuid(3)}
    (finding,) = diagnose(replace(GOOD, environments={**GOOD.environments, VISION: variables}))
    assert (finding.code, finding.severity) == ("DEVICE_ORDER", Severity.WARNING)


def test_a_failed_unit_is_a_fault_with_its_last_words() -> None:
    failed = replace(UNITS[0], active="failed", result="exit-code", main_pid=0, status="no such model")
    assert "has failed (exit-code): no such model" in codes(with_unit(failed))["UNIT_FAILED"]


@pytest.mark.parametrize(
    ("health", "code", "severity"),
    [
        (Health.NOT_SERVING, "NOT_HEALTHY", Severity.FAULT),
        (Health.SILENT, "NOT_HEALTHY", Severity.FAULT),
        (Health.FORBIDDEN, "HEALTH_UNKNOWN", Severity.NOTE),
    ],
)
def test_an_active_unit_that_does_not_serve_is_found(health: Health, code: str, severity: Severity) -> None:
    (finding,) = diagnose(replace(GOOD, health={**GOOD.health, LLM: health}))
    assert (finding.code, finding.severity) == (code, severity)
    assert LLM in finding.message


def test_a_unit_that_is_still_loading_is_not_blamed_for_its_health() -> None:
    loading = replace(UNITS[0], active="activating", sub="start")
    assert diagnose(replace(with_unit(loading), health={**GOOD.health, LLM: Health.NOT_SERVING})) == ()


def test_where_a_unit_listens(tmp_path: Path) -> None:
    config = tmp_path / "maifs.toml"
    config.write_text('[llm.server]\naddress = "unix:/run/x.sock"\n')
    further = replace(UNITS[1], name="maifs-vision@2.service")
    assert address_of(UNITS[0], config) == "unix:/run/x.sock"
    assert address_of(UNITS[1], config) == "unix:/run/maifs/vision.sock"
    assert address_of(further, config) == "unix:/run/maifs/vision-2.sock"
    moved = replace(UNITS[1], environment={"MAIFS_VISION_SERVER_ADDRESS": "unix:/y.sock"})
    assert address_of(moved, config) == "unix:/y.sock"


def test_a_running_service_of_an_older_plan_is_found() -> None:
    variables = {"CUDA_VISIBLE_DEVICES": uuid(2), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    found = codes(replace(GOOD, environments={**GOOD.environments, VISION: variables}))
    assert f"runs with {uuid(2)}, but its installed plan says {uuid(3)}" in found["NOT_RESTARTED"]


def test_unit_files_that_systemd_has_not_read_are_found() -> None:
    assert "NOT_RELOADED" in codes(with_unit(replace(UNITS[1], needs_reload=True)))


@pytest.mark.parametrize(("name", "part"), [(LLM, "--max-model-len"), (VISION, "memory_budget_mib")])
def test_a_service_that_ran_out_of_memory_is_told_with_what_helps(name: str, part: str) -> None:
    (finding,) = diagnose(replace(GOOD, out_of_memory=frozenset({name})))
    assert (finding.code, finding.severity) == ("OUT_OF_MEMORY", Severity.FAULT)
    assert part in finding.cure


def test_an_engine_process_without_gpu_and_service_is_an_orphan_too() -> None:
    (finding,) = diagnose(replace(GOOD, orphans=(Owner(666, "", "VLLM::Worker"),)))
    assert (finding.code, finding.severity, finding.cure) == ("ORPHAN", Severity.WARNING, "kill 666")


def proc(folder: Path, pid: int, parent: int, command: str, unit: str = "") -> None:
    (folder / str(pid)).mkdir()
    (folder / str(pid) / "comm").write_text(command + "\n")
    (folder / str(pid) / "stat").write_text(f"{pid} ({command}) S {parent} 1 1\n")
    (folder / str(pid) / "cgroup").write_text(f"0::/maifs.slice/{unit}\n" if unit else "0::/\n")


def test_orphans_are_told_from_engines_with_a_service_by_the_process_table(tmp_path: Path) -> None:
    proc(tmp_path, 1, 0, "systemd")
    proc(tmp_path, 50, 1, "llm-service")
    proc(tmp_path, 51, 50, "VLLM::EngineCor")
    proc(tmp_path, 60, 1, "VLLM::EngineCor", LLM)
    proc(tmp_path, 70, 1, "VLLM::Worker_TP")
    assert [owner.pid for owner in find_orphans(tmp_path)] == [70]


@pytest.mark.parametrize(
    ("days", "code"), [(-3.0, "TLS_EXPIRED"), (5.0, "TLS_EXPIRES"), (None, "TLS_UNREADABLE"), (90.0, "")]
)
def test_the_end_of_a_certificate_is_told(days: float | None, code: str) -> None:
    found = diagnose(replace(GOOD, certificate=Certificate(Path("/etc/credstore/maifs.tls-cert"), days)))
    assert [finding.code for finding in found] == ([code] if code else [])


def test_the_end_of_a_real_certificate_is_read(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "cert"
    assert read_certificate(path) is None
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "/dev/null")
    command = ["openssl", "req", "-x509", *key, "-subj", "/CN=maifs", "-days", "5", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    found = read_certificate(path)
    assert found is not None
    assert found.days_left == pytest.approx(5.0, abs=0.1)
    path.write_text("no certificate")
    assert read_certificate(path) == Certificate(path, None)


def test_every_code_of_a_finding_is_explained() -> None:
    documented = set(re.findall(r"\b[A-Z][A-Z_]+[A-Z]\b", (ROOT / "docs" / "gpu.md").read_text()))
    used: set[str] = set()
    for path in (ROOT / "serving" / "gpu").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Finding":
                code = node.args[1]
                used |= {str(code.value)} if isinstance(code, ast.Constant) else {"PIN_ADVISORY", "PIN_VIOLATED"}
    assert len(used) > 20
    assert used <= documented, used - documented


def test_memory_that_nobody_visible_holds_is_found() -> None:
    assert GOOD.inventory is not None
    gpus = (*GOOD.gpus[:3], replace(GOOD.gpus[3], processes=(), used_bytes=4 << 30))
    found = codes(replace(GOOD, inventory=replace(GOOD.inventory, gpus=gpus)))
    assert "GPU 3 has 4.0 GiB in use by no process" in found["UNSEEN_PROCESS"]


def test_a_language_model_over_two_numa_nodes_is_noted() -> None:
    assert GOOD.inventory is not None
    gpus = (*GOOD.gpus[:2], replace(GOOD.gpus[2], numa_node=1), replace(GOOD.gpus[3], numa_node=1))
    (finding,) = diagnose(replace(GOOD, inventory=replace(GOOD.inventory, gpus=gpus)))
    assert (finding.code, finding.severity) == ("NUMA_SPLIT", Severity.NOTE)


def test_a_further_vision_service_is_one_of_ours() -> None:
    name = "maifs-vision@2.service"
    snapshot = replace(
        GOOD,
        inventory=host_with({0: (100,), 1: (101,), 2: (300,), 3: (200,)}),
        owners={**OWNERS, 300: Owner(300, name, "vision-service")},
        units=(unit(LLM, 99, (1, 0), (0, 1)), UNITS[1], UNITS[2], unit(name, 300, (2,), (2,))),
        environments={},
    )
    assert roles(snapshot)[name] == (2,)
    assert diagnose(snapshot) == ()


def test_missing_nodes_are_found() -> None:
    message = codes(replace(GOOD, minors=(0, 1, 2), has_uvm_node=False))["NODE_MISSING"]
    assert message == "Device nodes are missing: /dev/nvidia3, /dev/nvidia-uvm."


@pytest.mark.parametrize(("cuda", "found"), [("12.8", False), ("13.0", False), ("13.2", False), ("14.0", True)])
def test_a_driver_too_old_for_torch_is_found_by_major_version(cuda: str, found: bool) -> None:
    assert ("DRIVER_TOO_OLD" in codes(replace(GOOD, torch_cuda=cuda))) is found


def test_the_llm_s_gpus_without_peer_access_are_a_warning() -> None:
    found = codes(replace(GOOD, no_peer_access=((0, 1), (0, 3))))
    assert "memory: 0-1." in found["NO_PEER_ACCESS"]


def test_errors_in_the_kernel_s_log_are_told_by_gpu() -> None:
    log = (
        "NVRM: Xid (PCI:0000:06:00): 79, pid=1, name=python, GPU has fallen off the bus.\n"
        "NVRM: Xid (PCI:0000:06:00): 79, pid=2\nNVRM: Xid (PCI:0000:04:00): 13, Graphics Exception\nother\n"
    )
    xids = parse_xids(log)
    assert xids == (Xid("00000000:06:00.0", 79), Xid("00000000:04:00.0", 13))
    faults = {finding.message: finding.severity for finding in diagnose(replace(GOOD, xids=xids))}
    assert [severity for text, severity in faults.items() if "GPU 2" in text] == [Severity.FAULT]
    assert [severity for text, severity in faults.items() if "GPU 0" in text] == [Severity.WARNING]


def test_systemctl_s_answer_is_read_with_repeated_and_quoted_values() -> None:
    (vision, other) = parse_units(
        "Id=maifs-vision.service\nLoadState=loaded\nActiveState=active\nSubState=running\nMainPID=12\nNRestarts=3\n"
        "DevicePolicy=closed\nDeviceAllow=/dev/char/195:3 rw\nDeviceAllow=/dev/char/195:255 rw\n"
        'Environment=CUDA_VISIBLE_DEVICES=GPU-1 "NAME=two words"\nStatusText=serving\n\n'
        "Id=maifs-llm.service\nLoadState=not-found\nMainPID=0\n"
    )
    assert vision.allowed_minors == {3}
    assert vision.environment == {"CUDA_VISIBLE_DEVICES": "GPU-1", "NAME": "two words"}
    assert (vision.main_pid, vision.restarts, vision.allows_every_gpu) == (12, 3, False)
    assert not other.loaded
