"""GPU memory in the metrics, with a fake library in the driver's place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.serving import fake_nvml

SHOW = """
import json
from prometheus_client import CollectorRegistry
from serving.gpu.inventory import take_inventory
from serving.gpu.pin import PinState
from serving.gpu.report import PinReport
from serving.metrics.gpu import GpuMetrics
gpus = take_inventory().gpus
registry = CollectorRegistry()
GpuMetrics(registry).look(PinReport(PinState.ENFORCED, "enforced", (gpus[1].uuid,)))
shown = [(s.labels["gpu"], s.value) for f in registry.collect() for s in f.samples if "memory" in s.name]
print(json.dumps([[gpus[1].uuid, gpus[1].used_bytes, gpus[1].total_bytes], shown]))
"""


@pytest.fixture(name="driver", scope="module")
def _driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_nvml.build(tmp_path_factory.mktemp("nvml"))


def test_the_pinned_gpu_alone_is_shown_with_its_memory(driver: Path) -> None:
    result = fake_nvml.run(driver, "-c", SHOW)
    assert result.returncode == 0, result.stderr
    (uuid, used, total), shown = json.loads(result.stdout)
    assert shown == [[uuid, used], [uuid, total]]
    assert total > 0
