"""Cases for tests of explanations."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordinator.case import TOOLS, Case, FileFacts, Finding, Measurement, Region, ToolEvidence
from coordinator.fusion import Contribution, FusionResult, Posterior, Verdict

PRIOR = Posterior(0.7, 0.15, 0.15)
POSTERIORS = {
    "manipulated": Posterior(0.06, 0.93, 0.01),
    "ai_generated": Posterior(0.02, 0.01, 0.97),
    "authentic": Posterior(0.92, 0.05, 0.03),
    "uncertain": Posterior(0.4, 0.55, 0.05),
}

GRID = Finding(
    id="frequency.foreign_grid",
    tool="frequency",
    outcome="tested",
    score=12.3,
    score_meaning="-log10 of the number of false alarms of the strongest region on a foreign JPEG grid, at most 30",
    log10_nfa=-12.3,
    log10_lr_manipulated=2.13,
    detected=True,
    explanation_key="frequency.foreign_grid.detected",
    measurements=(
        Measurement("picture_grid_x", 0, "px"),
        Measurement("picture_grid_y", 0, "px"),
        Measurement("foreign_region_count", 2, "count"),
        Measurement("foreign_grid_x", 3, "px"),
        Measurement("foreign_grid_y", 5, "px"),
        Measurement("foreign_votes", 640, "count"),
    ),
    regions=(Region(700, 10, 120, 80), Region(20, 500, 64, 64)),
)
NOISE = Finding(
    id="noise.level_map",
    tool="noise",
    outcome="tested",
    score=0.9,
    score_meaning="-log10 of the number of false alarms of the strongest region of foreign noise, 0..30",
    log10_nfa=-0.9,
    log10_lr_manipulated=-0.1,
    explanation_key="noise.level_map.not_detected",
    measurements=(Measurement("median_noise", 2.4, "grey levels"), Measurement("usable_share", 0.63, "1")),
)
SOURCE = Finding(
    id="watermark.metadata_source",
    tool="watermark",
    outcome="tested",
    score=2.0,
    score_meaning="declared origin",
    log10_lr_ai_generated=2.0,
    detected=True,
    explanation_key="watermark.metadata_source.declared_ai",
    measurements=(Measurement("metadata_fields", 7, "count"), Measurement("declarations", 1, "count")),
    details={"declared_by": "Midjourney", "field": "text Description", "value": "a photo of a dog --v 6"},
)
SOFTWARE = Finding(
    id="watermark.metadata_software",
    tool="watermark",
    outcome="tested",
    score=1.0,
    score_meaning="saved steps that the metadata tell of",
    explanation_key="watermark.metadata_software.editor_named",
    measurements=(Measurement("history_saves", 0, "count"),),
    details={"software": "Adobe Photoshop 25.0"},
)
COPY = Finding(
    id="spatial.copy_move",
    tool="spatial",
    outcome="not_applicable",
    reason="the picture has 60 x 60 px; copies are sought from 64 px a side",
    explanation_key="not_applicable.too_small",
)


def make_case(verdict: Verdict, *findings: Finding, rule: str = "", **file: Any) -> Case:
    """A case with these findings, grouped by tool."""
    posterior = POSTERIORS[verdict]
    probability = max(posterior.authentic, posterior.manipulated, posterior.ai_generated)
    contributions = tuple(
        Contribution(f.id, f.log10_lr_manipulated, f.log10_lr_ai_generated)
        for f in findings
        if f.tested and (f.log10_lr_manipulated or f.log10_lr_ai_generated)
    )
    fusion = FusionResult(
        verdict=verdict,
        probability=probability,
        posterior=posterior,
        prior=PRIOR,
        log10_lr_manipulated=sum(c.log10_lr_manipulated for c in contributions),
        log10_lr_ai_generated=sum(c.log10_lr_ai_generated for c in contributions),
        contributions=contributions,
        calibration_id="test",
        rule=rule,
    )
    facts = replace(FileFacts("JPEG", 900, 600, 92), **file)
    tools = []
    for tool in TOOLS:
        own = tuple(f for f in findings if f.tool == tool)
        outcome = "tested" if any(f.tested for f in own) else "not_applicable"
        tools.append(ToolEvidence(tool, outcome, own))  # type: ignore[arg-type]
    return Case(facts, tuple(tools), fusion)


SPLICED = make_case("manipulated", GRID, NOISE, SOFTWARE, COPY)
NO_GRID = replace(
    GRID,
    detected=False,
    regions=(),
    score=0.0,
    log10_nfa=None,
    log10_lr_manipulated=-0.1,
    explanation_key="frequency.foreign_grid.not_detected",
    measurements=(),
)
GENERATED = make_case("ai_generated", NO_GRID, NOISE, SOURCE)
CLEAN = make_case("authentic", NOISE, replace(COPY, outcome="tested", explanation_key="spatial.copy_move.not_detected"))
OPEN = make_case("uncertain", GRID, NOISE, rule="evidence.too_weak")
