"""A service process that is told its GPUs, with the fake driver."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving.config import load_config
from serving.errors import ExitCode, MaifsError
from serving.gpu.session import GpuConfig
from tests.serving import fake_nvml

FIRST, LAST = (f"GPU-0badc0de-0000-4000-8000-00000000000{index}" for index in (0, 3))
CLAIM = """
import os, sys
from serving.errors import MaifsError
from serving.gpu.session import GpuConfig, open_session
try:
    session = open_session(GpuConfig(devices=tuple(sys.argv[1].split(",")), allow_busy=len(sys.argv) > 2))
except MaifsError as error:
    print(error.reason, error)
    sys.exit(error.reason.exit_code)
seen = [os.environ[name] for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")]
print(*seen, session.gpus[0].minor, "torch" in sys.modules)
"""


@pytest.fixture(name="driver", scope="module")
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


@pytest.mark.parametrize("selector", ["3", LAST])
def test_the_environment_is_set_before_torch_is_even_imported(driver: Path, selector: str) -> None:
    result = fake_nvml.run(driver, "-c", CLAIM, selector, minors="1,0,3,2")
    assert result.stdout.split() == [LAST, "PCI_BUS_ID", "2", "False"]


def test_a_gpu_in_use_is_refused_and_may_be_shared_when_told(driver: Path) -> None:
    pids = f"0,0,0,{os.getpid()}"
    refused = fake_nvml.run(driver, "-c", CLAIM, LAST, pids=pids)
    assert refused.returncode == ExitCode.UNREACHABLE
    assert f"process {os.getpid()}" in refused.stdout
    assert fake_nvml.run(driver, "-c", CLAIM, LAST, "busy", pids=pids).returncode == ExitCode.OK
    assert fake_nvml.run(driver, "-c", CLAIM, FIRST, pids=pids).returncode == ExitCode.OK


def test_a_missing_driver_is_told(driver: Path) -> None:
    result = fake_nvml.run(driver, "-c", CLAIM, "3", init=9)
    assert result.returncode == ExitCode.UNREACHABLE
    assert "Driver Not Loaded" in result.stdout


def test_a_service_refuses_a_gpu_that_is_not_there(driver: Path) -> None:
    arguments = ("--address", "unix:/tmp/maifs-never.sock", "--set", "gpu.devices=7")
    result = fake_nvml.run(driver, "-m", "vision_service", *arguments)
    assert result.returncode == ExitCode.USAGE
    assert "There is no GPU '7' here" in result.stderr


PROVE = """
import os, sys
from serving.errors import MaifsError
from serving.gpu.session import GpuConfig, open_session
session = open_session(GpuConfig(devices=("3",)))
os.environ["FAKE_NVML_PIDS"] = sys.argv[1].replace("OWN", str(os.getpid()))
try:
    report = session.prove()
except MaifsError as error:
    sys.exit(str(error))
print(report.state, *report.gpu_uuids, report.message().state)
"""


def test_a_proof_is_reported_with_the_gpus(driver: Path) -> None:
    result = fake_nvml.run(driver, "-c", PROVE, "0,0,0,OWN")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this host has an NVIDIA driver")
    assert result.stdout.split() == ["enforced", LAST, "2"]


def test_a_process_of_the_service_on_a_foreign_gpu_is_refused(driver: Path) -> None:
    result = fake_nvml.run(driver, "-c", PROVE, "OWN,0,0,0")
    assert f"holds a GPU that is not its own: {FIRST}" in result.stderr


def test_an_enforced_pin_without_a_gpu_is_a_fault_of_the_configuration() -> None:
    with pytest.raises(MaifsError, match="names no GPU"):
        load_config(GpuConfig, "x", environ={"MAIFS_X_REQUIRE_ENFORCED": "yes"})
