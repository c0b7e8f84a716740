"""A tool's run: failures stay where they happen, silence is never a verdict."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from benchmarks.camera import to_png
from vision_service.calibration import Calibration
from vision_service.domain import Observation, Outcome, Test, Tool, ToolName, ToolResult, Verdict, not_applicable
from vision_service.runner import run_tool
from vision_service.substrate import Substrate


@pytest.fixture
def substrate(to_substrate: Callable[[bytes], Substrate]) -> Substrate:
    return to_substrate(to_png(np.full((16, 16, 3), 90, np.uint8)))


def seen(score: float, *, detected: bool = False, key: str = "") -> Observation:
    return Observation(Outcome.TESTED, score=score, detected=detected, explanation_key=key)


def calibration(**policy: dict[str, float]) -> Calibration:
    curve: dict[str, Any] = {"*": {"slope": 1.0, "intercept": -1.0, "cap": 2.0}}
    return Calibration.from_document(
        {
            "version": "0.0",
            "tests": {name: {"manipulated": curve} for name in ("noise.a", "noise.b", "noise.c")},
            "policy": policy,
            "groups": {"noise.a": "jpeg", "noise.b": "jpeg", "noise.c": "sensor"},
        }
    )


def run(
    substrate: Substrate, observations: dict[str, Observation | Exception], **policy: dict[str, float]
) -> ToolResult:
    def test(name: str, outcome: Observation | Exception) -> Test:
        def act(_: Substrate) -> Observation:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        return Test(f"noise.{name}", "", "", act)

    tool = Tool(ToolName.NOISE, "1.2.3", tuple(test(name, outcome) for name, outcome in observations.items()))
    return run_tool(tool, substrate, calibration(**policy))


def test_a_raising_test_fails_alone_and_says_why(substrate: Substrate) -> None:
    result = run(substrate, {"a": ZeroDivisionError("by zero"), "b": seen(0.0)})
    failed, other = result.findings
    assert failed.observation.outcome is Outcome.FAILED
    assert failed.observation.reason == "ZeroDivisionError: by zero"
    assert (failed.manipulated.log10_lr, failed.manipulated.cap) == (0.0, 0.0)
    assert other.observation.outcome is Outcome.TESTED
    assert result.outcome is Outcome.TESTED
    assert result.error == ""
    assert result.version == "1.2.3"


def test_a_tool_fails_only_when_all_its_tests_failed(substrate: Substrate) -> None:
    result = run(substrate, {"a": ValueError("x"), "b": KeyError("y")})
    assert result.outcome is Outcome.FAILED
    assert "noise.a: ValueError: x" in result.error
    assert "noise.b: KeyError" in result.error
    assert run(substrate, {"a": ValueError("x"), "b": not_applicable("c", "d")}).outcome is Outcome.NOT_APPLICABLE


def test_a_tool_without_tests_is_not_applicable_and_uncertain(substrate: Substrate) -> None:
    result = run(substrate, {})
    assert result.outcome is Outcome.NOT_APPLICABLE
    assert result.verdict is Verdict.UNCERTAIN
    assert result.manipulated.log10_lr == 0.0


def test_a_score_that_is_not_finite_is_a_failure_not_a_weight(substrate: Substrate) -> None:
    result = run(substrate, {"a": seen(math.nan, detected=True), "b": seen(0.0)})
    assert result.findings[0].observation.outcome is Outcome.FAILED
    assert math.isfinite(result.manipulated.log10_lr)


def test_tests_of_one_trace_do_not_add_up_but_traces_do(substrate: Substrate) -> None:
    one = run(substrate, {"a": seen(3.0, detected=True)})
    two = run(substrate, {"a": seen(3.0, detected=True), "b": seen(3.0, detected=True)})
    other = run(substrate, {"a": seen(3.0, detected=True), "c": seen(3.0, detected=True)})
    assert two.manipulated.log10_lr == pytest.approx(one.manipulated.log10_lr)
    assert other.manipulated.log10_lr == pytest.approx(2 * one.manipulated.log10_lr)


def test_nothing_found_is_uncertain_and_weak(substrate: Substrate) -> None:
    result = run(substrate, {"a": seen(0.0), "b": seen(0.0), "c": seen(0.0)})
    assert result.verdict is Verdict.UNCERTAIN
    assert -0.7 < result.manipulated.log10_lr < 0


def test_a_high_score_accuses_only_when_detected(substrate: Substrate) -> None:
    assert run(substrate, {"a": seen(30.0, detected=True)}).verdict is Verdict.MANIPULATED
    assert run(substrate, {"a": seen(30.0)}).verdict is Verdict.UNCERTAIN
    assert run(substrate, {"a": seen(2.0, detected=True)}).verdict is Verdict.UNCERTAIN


def test_policy_names_ai_and_clears_a_trusted_capture(substrate: Substrate) -> None:
    ai = {"noise.x.ai": {"manipulated": 0.0, "ai_generated": 4.0}}
    declared = run(substrate, {"x": seen(1.0, detected=True, key="noise.x.ai")}, **ai)
    assert declared.verdict is Verdict.AI_GENERATED
    capture = {"noise.x.capture": {"manipulated": -2.0, "ai_generated": -2.0}}
    assert run(substrate, {"x": seen(1.0, key="noise.x.capture")}, **capture).verdict is Verdict.AUTHENTIC
    weighed = run(substrate, {"x": seen(1.0, key="noise.x.capture"), "a": seen(30.0, detected=True)}, **capture)
    assert weighed.verdict is not Verdict.AUTHENTIC
