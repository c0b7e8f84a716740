"""The language model's unit under a real systemd, with the real engine on the CPU."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.conftest import ROOT
from tests.model import prepared_model
from tests.system.booted import SOURCE, Booted, boot

LLM = "maifs-llm.service"

pytestmark = pytest.mark.engine


@pytest.fixture(name="system", scope="module")
def _system() -> Iterator[Booted]:
    model = f"{SOURCE}/{prepared_model().relative_to(ROOT)}"
    settings = f"MAIFS_LLM_MODEL={model} MAIFS_LLM_MAX_MODEL_LEN_TOKENS_COUNT=2560 VLLM_LOGGING_LEVEL=WARNING"
    with boot() as system:
        system.install()
        system.write(f"/etc/systemd/system/{LLM}.d/90-test.conf", f"[Service]\nEnvironment={settings}\nRestart=no\n")
        system.shell(f"systemctl daemon-reload; systemctl start --no-block {LLM}")
        yield system


def test_the_engine_loads_under_all_restrictions_and_leaves_no_process_when_it_is_killed(system: Booted) -> None:
    seen = {system.show(LLM, "StatusText")}
    while system.show(LLM, "ActiveState") == "activating":
        time.sleep(0.5)
        seen.add(system.show(LLM, "StatusText"))
    assert system.show(LLM, "ActiveState") == "active", system.journal(LLM)
    assert any(text.startswith("starting, ") for text in seen)
    folder = f"/sys/fs/cgroup{system.show(LLM, 'ControlGroup')}"
    processes = system.shell(f"cat {folder}/cgroup.procs").split()
    assert len(processes) > 1, "the engine has a process of its own"
    system.shell(f"kill -KILL {system.show(LLM, 'MainPID')}")
    system.wait_for(LLM, "ActiveState", "failed", timeout_s=10)
    alive = system.shell(f"for pid in {' '.join(processes)}; do test -e /proc/$pid && echo $pid || true; done")
    assert alive == ""
