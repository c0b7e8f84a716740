"""The case: everything that is known of one picture when its explanation is written. Knows no gRPC."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from coordinator.fusion import FusionResult, Outcome

TOOLS = ("frequency", "noise", "watermark", "spatial")
"""Names of the tools in the order of reports."""


@dataclass(frozen=True)
class Measurement:
    """One number behind a score."""

    name: str
    value: float
    unit: str


@dataclass(frozen=True)
class Region:
    """A rectangle in stored pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True)
class Finding:
    """The result of one test, as maifs.common.v1.Finding without its map."""

    id: str
    tool: str
    outcome: Outcome
    reason: str = ""
    score: float = 0.0
    score_meaning: str = ""
    log10_nfa: float | None = None
    p_value: float | None = None
    log10_lr_manipulated: float = 0.0
    log10_lr_ai_generated: float = 0.0
    detected: bool = False
    explanation_key: str = ""
    measurements: tuple[Measurement, ...] = ()
    regions: tuple[Region, ...] = ()
    details: Mapping[str, str] = field(default_factory=dict)
    """Untrusted text from the file."""

    @property
    def tested(self) -> bool:
        """Whether the test ran, so that its numbers mean something."""
        return self.outcome == "tested"


@dataclass(frozen=True)
class ToolEvidence:
    """What one tool says."""

    tool: str
    outcome: Outcome
    findings: tuple[Finding, ...]
    error: str = ""
    """What broke, for a tool that failed as a whole."""


@dataclass(frozen=True)
class FileFacts:
    """What the file is."""

    format: str
    width_px: int
    height_px: int
    jpeg_quality: int
    """0 when it is no JPEG."""


@dataclass(frozen=True)
class Case:
    """One picture: its file, its evidence and the verdict."""

    file: FileFacts
    tools: tuple[ToolEvidence, ...]
    fusion: FusionResult

    def findings(self) -> Iterator[Finding]:
        """All findings in the order of the report."""
        for tool in self.tools:
            yield from tool.findings

    def decisive(self) -> tuple[Finding, ...]:
        """Findings that moved the result towards the verdict, strongest first."""
        by_id = {finding.id: finding for finding in self.findings()}
        verdict = self.fusion.verdict
        weighed: list[tuple[float, Finding]] = []
        for contribution in self.fusion.contributions:
            manipulated, ai = contribution.log10_lr_manipulated, contribution.log10_lr_ai_generated
            towards = {"manipulated": manipulated, "ai_generated": ai, "authentic": -(manipulated + ai)}
            weight = towards.get(verdict, max(manipulated, ai))
            if weight > 0 and contribution.finding_id in by_id:
                weighed.append((weight, by_id[contribution.finding_id]))
        return tuple(finding for _, finding in sorted(weighed, key=lambda pair: -pair[0]))
