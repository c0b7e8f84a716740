"""The benchmark of detectors: every stage is measured, and versions are compared by costs, not by times."""

from __future__ import annotations

import json

from benchmarks.camera import photo, to_jpeg
from benchmarks.detectors import COSTS, REFERENCE_FILE, Figures, Machine, comparison, measure, table
from vision_service.tools import TOOLS

TESTS = {test.id for tool in TOOLS for test in tool.tests}


def _figure(ms: float, references: float) -> dict[str, float]:
    return {"ms_per_mp": ms, "references_per_mp": references, "extra_mib": 1.0}


def test_every_test_of_every_tool_is_a_stage_with_time_cost_and_memory() -> None:
    figures = measure(to_jpeg(photo(96, 128, seed=1), 90), rounds=1)
    assert set(figures) >= TESTS | set(COSTS)
    total = figures["all stages"]
    for key in ("ms_per_mp", "references_per_mp"):
        parts = sum(figure[key] for name, figure in figures.items() if name != "all stages")
        assert abs(total[key] - parts) < 1e-6 * parts
    lines = table({"0.01": figures}).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + len(figures)


def test_the_bound_is_the_slower_of_reading_and_reckoning() -> None:
    assert Machine(read_gb_s=10.0, additions_g_s=1e9).bound_ms_per_mp("noise.cfa") == 0.1  # 1 byte per pixel
    assert Machine(read_gb_s=1e9, additions_g_s=2.0).bound_ms_per_mp("noise.cfa") == 3.0  # 6 operations per pixel
    assert Machine(1.0, 1.0).bound_ms_per_mp("noise.prnu") is None


def test_a_machine_of_half_the_speed_is_no_regression_and_a_dearer_stage_is_one() -> None:
    old: dict[str, Figures] = {"1": {"a": _figure(10, 2.0), "b": _figure(10, 2.0), "c": _figure(0.1, 0.02)}}
    new: dict[str, Figures] = {"1": {"a": _figure(20, 2.0), "b": _figure(20, 4.0), "c": _figure(5, 1.0)}}
    text = comparison(old, new)
    assert "| a | 2.00 | 2.00 | 1.00 |" in text
    assert "| b | 2.00 | 4.00 | 2.00 slower |" in text
    assert "| c |" not in text
    assert comparison(old, {"12": new["1"]}) == "No size is in both."


def test_small_stages_are_not_judged_by_ratios_that_runs_of_the_same_code_reach() -> None:
    old: dict[str, Figures] = {"1": {"all stages": _figure(5, 1.0), "small": _figure(5, 1.0), "grown": _figure(5, 1.0)}}
    new: dict[str, Figures] = {"1": {"all stages": _figure(7, 1.4), "small": _figure(7, 1.5), "grown": _figure(9, 5.0)}}
    text = comparison(old, new)
    assert "| all stages | 1.00 | 1.40 | 1.40 slower |" in text
    assert "| small | 1.00 | 1.50 | 1.50 |" in text
    assert "| grown | 1.00 | 5.00 | 5.00 slower |" in text


def test_stages_that_come_and_go_are_told() -> None:
    old: dict[str, Figures] = {"1": {"a": _figure(10, 2.0), "gone": _figure(10, 2.0)}}
    new: dict[str, Figures] = {"1": {"a": _figure(10, 2.0), "fresh": _figure(10, 2.0)}}
    assert "New: fresh. Gone: gone." in comparison(old, new)


def test_the_kept_figures_can_be_compared() -> None:
    kept: dict[str, Figures] = json.loads(REFERENCE_FILE.read_text())
    assert "all stages" in comparison(kept, kept)
    assert "slower" not in comparison(kept, kept)
