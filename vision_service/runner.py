"""Runs one tool over one picture: every test by itself, a failure never takes the others with it."""

from __future__ import annotations

import math
import time

import torch

from vision_service.calibration import Calibration
from vision_service.domain import Finding, Observation, Outcome, Test, Tool, ToolResult, Verdict, Weight
from vision_service.substrate import Substrate

TOOL_ACCUSES_LOG10_LR = 1.5
"""A tool names a hypothesis from this log10 LR on (about 30 to 1), if one of its tests detected its trace."""

TOOL_CLEARS_LOG10_LR = -1.0
"""A tool says AUTHENTIC only when a single finding weighs this much or less against both hypotheses, which only a
provenance policy can reach: fitted tests stop far above (`calibration.NOTHING_FOUND_FLOOR`)."""


def run_tool(tool: Tool, substrate: Substrate, calibration: Calibration) -> ToolResult:
    """Runs all tests of a tool.

    A test that raises becomes a FAILED finding whose reason names the exception; the others go on. The tool is FAILED
    only when all its tests failed, NOT_APPLICABLE when none could say anything.
    """
    start = time.perf_counter()
    findings = tuple(_run_test(test, substrate, calibration) for test in tool.tests)
    manipulated, ai_generated = calibration.combine(findings)
    outcome = _outcome(findings)
    return ToolResult(
        tool=tool.name,
        version=tool.version,
        outcome=outcome,
        verdict=_verdict(findings, manipulated, ai_generated),
        manipulated=manipulated,
        ai_generated=ai_generated,
        findings=findings,
        duration_s=time.perf_counter() - start,
        error=_error(findings) if outcome is Outcome.FAILED else "",
    )


def observe(test: Test, substrate: Substrate) -> tuple[Observation, float]:
    """Runs one test; returns what it saw (FAILED when it raised or broke its contract) and the seconds it took.

    Raises:
        torch.OutOfMemoryError, MemoryError: there is not enough memory now.
    """
    start = time.perf_counter()
    try:
        observation = test.run(substrate)
    except (torch.OutOfMemoryError, MemoryError):
        raise  # the whole picture's matter: the same test may pass once others have ended
    except Exception as error:  # noqa: BLE001 - one broken test must not silence the others
        observation = _failed(f"{type(error).__name__}: {error}".strip(": "))
    if observation.outcome is Outcome.TESTED and not math.isfinite(observation.score):
        observation = _failed(f"ValueError: score is {observation.score}, not a finite number")
    return observation, time.perf_counter() - start


def _failed(reason: str) -> Observation:
    return Observation(Outcome.FAILED, reason=reason[:500], explanation_key="failed")


def _run_test(test: Test, substrate: Substrate, calibration: Calibration) -> Finding:
    observation, duration_s = observe(test, substrate)
    manipulated, ai_generated = calibration.weights(test.id, observation, substrate.stratum)
    return Finding(test.id, observation, manipulated, ai_generated, duration_s)


def _outcome(findings: tuple[Finding, ...]) -> Outcome:
    outcomes = {finding.observation.outcome for finding in findings}
    if Outcome.TESTED in outcomes:
        return Outcome.TESTED
    return Outcome.FAILED if outcomes == {Outcome.FAILED} else Outcome.NOT_APPLICABLE


def _error(findings: tuple[Finding, ...]) -> str:
    return "; ".join(f"{finding.id}: {finding.observation.reason}" for finding in findings)


def _verdict(findings: tuple[Finding, ...], manipulated: Weight, ai_generated: Weight) -> Verdict:
    supports = [
        (weight.log10_lr, verdict)
        for weight, verdict, detected in (
            (
                manipulated,
                Verdict.MANIPULATED,
                any(f.observation.detected and f.manipulated.log10_lr > 0 for f in findings),
            ),
            (
                ai_generated,
                Verdict.AI_GENERATED,
                any(f.observation.detected and f.ai_generated.log10_lr > 0 for f in findings),
            ),
        )
        if detected and weight.log10_lr >= TOOL_ACCUSES_LOG10_LR
    ]
    if supports:
        return max(supports, key=lambda support: support[0])[1]
    cleared = any(
        max(finding.manipulated.log10_lr, finding.ai_generated.log10_lr) <= TOOL_CLEARS_LOG10_LR for finding in findings
    )
    favourable = max(manipulated.log10_lr, ai_generated.log10_lr) <= TOOL_CLEARS_LOG10_LR
    return Verdict.AUTHENTIC if cleared and favourable else Verdict.UNCERTAIN
