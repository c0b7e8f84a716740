"""Choosing, claiming and proving GPUs."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from serving.errors import ExitCode, MaifsError, Reason
from serving.gpu import owners, pin
from serving.gpu.inventory import Gpu, GpuProcess, Inventory
from serving.gpu.pin import PinState, claim, probe, require, resolve, verify_cuda


def uuid(index: int) -> str:
    return f"GPU-0badc0de-0000-4000-8000-00000000000{index}"


def gpu(index: int, minor: int, *pids: int) -> Gpu:
    return Gpu(
        index=index,
        minor=minor,
        uuid=uuid(index),
        pci_bus_id=f"00000000:0{4 + index}:00.0",
        name="A100",
        total_bytes=40 << 30,
        used_bytes=0,
        free_bytes=40 << 30,
        bandwidth_bytes_per_s=1.555e12,
        compute_capability=(8, 0),
        numa_node=0,
        persistence=True,
        compute_mode=0,
        mig=False,
        uncorrected_ecc_errors=0,
        throttle_reasons=0,
        processes=tuple(GpuProcess(pid, 1 << 30) for pid in pids),
    )


HOST = Inventory("580.105.08", (13, 0), (gpu(0, 1), gpu(1, 0), gpu(2, 2), gpu(3, 3)))


def test_uuids_and_indexes_name_the_same_gpus() -> None:
    assert resolve([uuid(3)], HOST) == resolve(["3"], HOST) == (HOST.gpus[3],)
    assert [gpu.index for gpu in resolve(["2", uuid(0)], HOST)] == [2, 0]


@pytest.mark.parametrize(
    ("selectors", "part"),
    [(["4"], "no GPU '4'"), ([uuid(0)[:12]], "visible are: 0 ="), (["1", uuid(1)], "named twice"), ([""], "no GPU ''")],
)
def test_a_wrong_selector_is_refused_with_what_there_is(selectors: list[str], part: str) -> None:
    with pytest.raises(MaifsError) as caught:
        resolve(selectors, HOST)
    assert caught.value.reason is Reason.INVALID_CONFIG
    assert part in str(caught.value)


def test_a_gpu_split_by_mig_is_refused() -> None:
    host = replace(HOST, gpus=(replace(HOST.gpus[0], mig=True),))
    with pytest.raises(MaifsError, match="MIG"):
        resolve(["0"], host)


def test_claimed_gpus_are_shown_to_cuda_by_uuid() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "3"}
    gpus = claim(["0", "2"], HOST, environ=environ)
    assert [gpu.index for gpu in gpus] == [0, 2]
    assert environ == {"CUDA_VISIBLE_DEVICES": f"{uuid(0)},{uuid(2)}", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_a_gpu_in_use_is_refused_with_process_and_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pin, "owner_of", lambda pid: owners.Owner(pid, "jupyter.service", "python3"))
    host = replace(HOST, gpus=(*HOST.gpus[:3], gpu(3, 3, 4711)))
    environ: dict[str, str] = {}
    with pytest.raises(MaifsError, match=r"GPU 3 by process 4711 \(python3\) of jupyter\.service") as caught:
        claim(["3"], host, environ=environ)
    assert caught.value.reason.exit_code is ExitCode.UNREACHABLE
    assert environ == {}
    assert claim(["3"], host, environ=environ, allow_busy=True)
    assert claim(["2"], host, environ=environ)


def test_a_process_of_the_service_itself_is_no_conflict() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        host = replace(HOST, gpus=(gpu(0, 0, child.pid, os.getpid()),))
        environ: dict[str, str] = {}
        assert claim(["0"], host, environ=environ)
        child.communicate(b"\n")


def test_a_stranger_is_a_conflict_by_the_real_process_table() -> None:
    assert not owners.same_service(1)
    assert pin.foreign_processes([gpu(0, 0, 1)]) != []


def test_gpus_are_not_claimed_once_cuda_has_started(monkeypatch: pytest.MonkeyPatch) -> None:
    started = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", started)
    with pytest.raises(MaifsError, match="CUDA has started"):
        claim(["0"], HOST, environ={})


def torch_with(*uuids: str) -> Any:
    properties = [SimpleNamespace(uuid=text.removeprefix("GPU-")) for text in uuids]
    return SimpleNamespace(
        cuda=SimpleNamespace(device_count=lambda: len(properties), get_device_properties=properties.__getitem__)
    )


def test_cuda_on_the_claimed_gpus_passes() -> None:
    verify_cuda(HOST.gpus[:2], torch_with(uuid(0), uuid(1)))


@pytest.mark.parametrize("opened", [[], [uuid(0)], [uuid(1), uuid(0)], [uuid(0), uuid(3)]])
def test_cuda_on_other_gpus_is_refused(opened: list[str]) -> None:
    with pytest.raises(MaifsError, match="CUDA opened"):
        verify_cuda(HOST.gpus[:2], torch_with(*opened))


def answers(monkeypatch: pytest.MonkeyPatch, folder: Path, **by_name: int) -> Path:
    """A folder of nodes that answer with these error numbers; 0 opens."""
    for name in (*by_name, "nvidiactl", "nvidia-uvm"):
        (folder / name).touch()
    monkeypatch.setattr(pin, "_open_node", lambda path: by_name[path.name])
    return folder


def test_a_pin_that_the_kernel_enforces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    p, x = errno.EPERM, errno.ENXIO
    proof = probe([3], answers(monkeypatch, tmp_path, nvidia0=p, nvidia1=p, nvidia2=p, nvidia3=x))
    assert (proof.state, proof.denied) == (PinState.ENFORCED, (0, 1, 2))
    require(proof, enforced=True)


@pytest.mark.parametrize("answer", [0, errno.ENXIO, errno.EACCES])
def test_nodes_that_the_policy_does_not_refuse_prove_no_pin(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: int
) -> None:
    proof = probe([1], answers(monkeypatch, tmp_path, nvidia0=answer, nvidia1=0))
    assert proof.state is PinState.ADVISORY
    require(proof, enforced=False)
    with pytest.raises(MaifsError, match="/dev/nvidia0 can be opened too"):
        require(proof, enforced=True)


@pytest.mark.parametrize(
    ("nodes", "part"),
    [
        ({"nvidia0": errno.EPERM, "nvidia1": 0, "nvidia2": 0}, "lets /dev/nvidia1 through"),
        ({"nvidia0": errno.EPERM, "nvidia2": errno.EPERM}, "denies the service's own /dev/nvidia2"),
    ],
)
def test_a_policy_that_does_not_fit_is_a_violation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, nodes: dict[str, int], part: str
) -> None:
    proof = probe([2], answers(monkeypatch, tmp_path, **nodes))
    assert proof.state is PinState.VIOLATED
    with pytest.raises(MaifsError, match=part):
        require(proof, enforced=False)


def test_a_host_without_nodes_has_nothing_to_refuse(tmp_path: Path) -> None:
    assert str(probe([], tmp_path)) == "enforced: there is no other GPU"


def test_real_files_are_opened_by_the_probe(tmp_path: Path) -> None:
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia7").touch()
    proof = probe([7], tmp_path)
    assert (proof.state, proof.reachable) == (PinState.ADVISORY, (0,))


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/maifs.slice/maifs-llm.service\n", "maifs-llm.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-1.scope\n", "run-1.scope"),
        ("12:devices:/x.service\n1:name=systemd:/system.slice/old.service/sub\n0::/\n", "old.service"),
        ("0::/\n", ""),
    ],
)
def test_a_process_is_told_by_its_unit(tmp_path: Path, cgroup: str, unit: str) -> None:
    (tmp_path / "42").mkdir()
    (tmp_path / "42" / "cgroup").write_text(cgroup)
    assert owners.unit_of(42, tmp_path) == unit


def test_a_process_that_is_gone_has_no_unit(tmp_path: Path) -> None:
    assert str(owners.owner_of(42, tmp_path)) == "process 42 of no known unit"
