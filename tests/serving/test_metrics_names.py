"""Names of metrics: as documented, well formed, and all that dashboard and alerts ask for is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterable

import pytest

from coordinator.metrics import CoordinatorMetrics
from llm_service.metrics import LlmMetrics
from serving.metrics.registry import ServiceMetrics
from tests.conftest import ROOT
from vision_service.metrics import VisionMetrics

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "maifs.rules.yml"
DASHBOARD = MONITORING / "grafana" / "maifs.json"


def services() -> Iterable[ServiceMetrics]:
    return CoordinatorMetrics(), VisionMetrics(), LlmMetrics()


def in_code() -> dict[str, str]:
    """Names and types of our metrics."""
    return {
        f"{family.name}_total" if family.type == "counter" else family.name: family.type
        for metrics in services()
        for family in metrics.registry.collect()
        if family.name.startswith("maifs_")
    }


def asked(text: str) -> set[str]:
    """Our metrics that expressions name."""
    names = set(re.findall(r"\bmaifs_[a-z0-9_]+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}


def test_the_table_in_the_docs_is_what_the_code_has() -> None:
    text = (ROOT / "docs/metrics.md").read_text()
    rows = re.findall(r"^\| (maifs_\w+) \| (\w+) \| ([^|]+) \|", text, re.M)
    assert {name: kind for name, kind, _ in rows} == in_code()
    assert len(rows) == len(in_code())


def test_dashboard_and_alerts_ask_only_for_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = re.findall(r"^ +expr:((?:.*\n)(?: {10}.*\n)*)", RULES.read_text(), re.M)
    assert len(expressions) >= 20
    assert len(rules) >= 10
    assert asked(" ".join([*expressions, *rules])) <= in_code().keys()


def test_every_alert_has_its_line_in_the_runbook() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    runbook = re.findall(r"^\| (Maifs\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert runbook == alerts


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool")
    return subprocess.run(
        [program, *arguments], input=stdin, cwd=RULES.parent, capture_output=True, text=True, timeout=120, check=False
    )


async def test_promtool_finds_no_fault_with_the_names() -> None:
    for metrics in services():
        done = promtool("check", "metrics", stdin=(await metrics.text()).decode())
        assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_alerts_fire_and_keep_quiet_as_their_unit_tests_say() -> None:
    assert promtool("check", "rules", RULES.name).returncode == 0
    done = promtool("test", "rules", "maifs.rules.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert promtool("check", "config", "prometheus.yml").returncode == 0
