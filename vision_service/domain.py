"""The vocabulary of the tools: what they take, what they observe, what they find. Knows no gRPC."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from vision_service.substrate import Substrate

MAX_REGIONS = 16
"""Most regions that a test may report; the strongest first."""


class ToolName(enum.StrEnum):
    """The four tools, in the order of reports."""

    FREQUENCY = "frequency"
    NOISE = "noise"
    WATERMARK = "watermark"
    SPATIAL = "spatial"


class Outcome(enum.Enum):
    """Whether a test could do its work."""

    TESTED = "tested"
    NOT_APPLICABLE = "not_applicable"
    FAILED = "failed"


class Verdict(enum.Enum):
    """What a tool's findings alone say. "Nothing found" is UNCERTAIN, never AUTHENTIC."""

    AUTHENTIC = "authentic"
    MANIPULATED = "manipulated"
    AI_GENERATED = "ai_generated"
    UNCERTAIN = "uncertain"


@dataclass(frozen=True)
class Measurement:
    """One number behind a score."""

    name: str
    """snake_case, unique within the observation."""
    value: float
    unit: str
    """Unit symbol: "px", "grey levels", "bit", "count"; "1" for a plain ratio."""


@dataclass(frozen=True)
class Region:
    """A rectangle in stored pixels (before EXIF rotation)."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, eq=False)
class HeatMap:
    """A map over the picture, coarse or full size."""

    values: npt.NDArray[np.uint8]
    """Shape (ceil(H / cell_px), ceil(W / cell_px)); 0 = nothing, 255 = strongest."""
    cell_px: int
    """Side in image pixels of one map cell."""
    meaning: str
    """What a bright cell means, one sentence."""
    significant: bool = False
    """True when bright cells passed the test's own significance threshold; False: a picture that proves nothing."""


@dataclass(frozen=True, eq=False)
class Observation:
    """What one test saw, before calibration. Make one with `observed` or `not_applicable`."""

    outcome: Outcome
    reason: str = ""
    """Why the test did not run (plain English); empty when it ran."""
    score: float = 0.0
    """Finite. Larger = more of the trace that the test looks for."""
    score_meaning: str = ""
    log10_nfa: float | None = None
    """log10 of the number of false alarms of the strongest detection (Desolneux et al.), where the test is
    a-contrario; below 0 is more than chance."""
    p_value: float | None = None
    detected: bool = False
    """True when the test found its trace at its own threshold."""
    explanation_key: str = ""
    """"<test id>.detected", "<test id>.not_detected", a finer "<test id>.<variant>", or "not_applicable.<code>"."""
    measurements: tuple[Measurement, ...] = ()
    regions: tuple[Region, ...] = ()
    heat_map: HeatMap | None = None
    details: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Untrusted text from the file on which the observation rests."""


def not_applicable(code: str, reason: str) -> Observation:
    """An observation of a test that cannot say anything about this picture.

    Args:
        code: stable snake_case code shared by tests, e.g. "not_jpeg", "too_small", "too_compressed", "no_texture".
        reason: one plain English sentence without a full stop at its end, with the numbers that decided.
    """
    return Observation(Outcome.NOT_APPLICABLE, reason=reason, explanation_key=f"not_applicable.{code}")


@dataclass(frozen=True)
class Weight:
    """A log10 likelihood ratio against "authentic" and the largest magnitude that its calibration supports."""

    log10_lr: float = 0.0
    cap: float = 0.0


@dataclass(frozen=True, eq=False)
class Finding:
    """An observation with its calibrated weights."""

    id: str
    """"<tool>.<test>"."""
    observation: Observation
    manipulated: Weight
    ai_generated: Weight
    duration_s: float


@dataclass(frozen=True, eq=False)
class ToolResult:
    """What one tool says of one picture."""

    tool: ToolName
    version: str
    outcome: Outcome
    verdict: Verdict
    manipulated: Weight
    ai_generated: Weight
    findings: tuple[Finding, ...]
    duration_s: float
    error: str = ""


@dataclass(frozen=True)
class Test:
    """One forensic test. `run` is pure: no state, no network, no files; it may raise, which fails this test alone."""

    id: str
    """"<tool>.<test>" in snake_case."""
    description: str
    """What it looks for, one sentence."""
    source: str
    """Publication or standard, e.g. "Bianchi, De Rosa, Piva: ICASSP 2011"."""
    run: Callable[[Substrate], Observation]

    __test__ = False  # not a pytest class


@dataclass(frozen=True)
class Tool:
    """A named group of tests that share a kind of trace."""

    name: ToolName
    version: str
    """"major.minor.patch"; raised whenever an output can change, because caches are keyed by it."""
    tests: tuple[Test, ...]
