"""The fused system on sources that neither calibration nor fusion had seen."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from coordinator.fit_fusion import fit_document
from coordinator.fusion import Evidence, FusionModel, FusionResult, fuse
from vision_service.calibration import Calibration
from vision_service.domain import Finding, Observation
from vision_service.fitting import fit_all, out_of_fold_evidence
from vision_service.labelled import Record

TOOLS = ("frequency", "noise", "watermark", "spatial")


@dataclass(frozen=True, eq=False)
class Judged:
    """One copy of a picture and what a model that had not seen its source says of it."""

    record: Record
    result: FusionResult
    tool_log10_lr: dict[str, tuple[float, float]]
    """(manipulated, AI generated) by tool."""


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted calibration and fusion."""

    calibration: Calibration
    fusion: FusionModel


def fit_model(records: Sequence[Record]) -> Model:
    """Fits calibration and, on its out-of-fold evidence, fusion."""
    document, fits = fit_all(records)
    rows = out_of_fold_evidence(records, fits)
    return Model(Calibration.from_document(document), FusionModel.from_document(fit_document(document["groups"], rows)))


def judge(record: Record, model: Model) -> Judged:
    """The verdict on one copy."""
    findings = []
    for test_id in sorted(record.observations):
        observation: Observation = record.observation(test_id)
        weights = model.calibration.weights(test_id, observation, record.stratum)
        findings.append(Finding(test_id, observation, *weights, 0.0))
    by_tool = {}
    for tool in TOOLS:
        manipulated, ai_generated = model.calibration.combine(f for f in findings if f.id.startswith(f"{tool}."))
        by_tool[tool] = (manipulated.log10_lr, ai_generated.log10_lr)
    return Judged(record, fuse([evidence_of(f) for f in findings], model.fusion), by_tool)


def evidence_of(finding: Finding) -> Evidence:
    """A finding as fusion takes it."""
    outcome: Any = finding.observation.outcome.value
    return Evidence(
        finding.id,
        finding.id.partition(".")[0],
        outcome,
        finding.observation.detected,
        finding.manipulated.log10_lr,
        finding.ai_generated.log10_lr,
        finding.manipulated.cap,
        finding.ai_generated.cap,
        finding.observation.explanation_key,
    )


def leave_one_source_out(fitted_on: Sequence[Record], judged: Sequence[Record], *, processes: int = 1) -> list[Judged]:
    """Judges every record by a model fitted without any copy of a picture of its source, forged copies included."""
    sources = sorted({record.source for record in judged})
    work = partial(_judge_source, list(fitted_on), list(judged))
    if processes > 1:
        with ProcessPoolExecutor(processes) as pool:
            parts = list(pool.map(work, sources))
    else:
        parts = [work(source) for source in sources]
    return [item for part in parts for item in part]


def _judge_source(fitted_on: list[Record], judged: list[Record], source: str) -> list[Judged]:
    model = fit_model([record for record in fitted_on if record.source != source])
    return [judge(record, model) for record in judged if record.source == source]
