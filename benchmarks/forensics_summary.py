"""All figures of one run of the forensic benchmark, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.forensics_loso import TOOLS, Judged
from benchmarks.forensics_metrics import (
    Rate,
    auc,
    cllr,
    cllr_min,
    clopper_pearson_upper,
    ece,
    macro_f1,
    tpr_at_fpr,
)
from vision_service.labelled import LABELS, Record
from vision_service.laundering import FORGERIES

CAMERA_SOURCES = ("exif-samples", "metadata-extractor-images")
"""Sources of untouched camera files, where an accusation is worst."""

ACCUSING = ("manipulated", "ai_generated")
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Figures:
    """The figures; `document` is what goes to JSON."""

    document: dict[str, Any]
    rungs: list[str]


def summarise(records: Sequence[Record], judged: Sequence[Judged], rungs: list[str]) -> Figures:
    """All figures, by rung."""
    document: dict[str, Any] = {"images": len({r.image for r in records}), "rungs": {}}
    for rung in rungs:
        on_rung = [r for r in records if r.rung == rung]
        verdicts = [j for j in judged if j.record.rung == rung]
        document["rungs"][rung] = {
            "tests": {test: test_figures(on_rung, test) for test in _test_ids(on_rung)},
            "tools": {tool: tool_figures(verdicts, tool) for tool in TOOLS},
            "fused": fused_figures(verdicts),
            "sources": _by_source(verdicts),
            "exif_rule": _exif_rule(on_rung),
        }
    document["forged_copies"] = {
        forgery: {test: _forged(records, test, forgery) for test in _test_ids(records)} for forgery in FORGERIES
    }
    return Figures(_rounded(document), rungs)


def _test_ids(records: Sequence[Record]) -> list[str]:
    return sorted({test for record in records for test in record.observations})


def test_figures(records: Sequence[Record], test: str) -> dict[str, Any]:
    """Raw score of one test: AUC where it ran; rates over all pictures, a test that did not run counting as silent."""
    entries = [(r, r.observations[test]) for r in records if test in r.observations]
    ran = [(r, e) for r, e in entries if e["outcome"] == "tested"]
    result: dict[str, Any] = {
        "ran": len(ran),
        "failed": sum(e["outcome"] == "failed" for _, e in entries),
        "ms_per_mp": _ms_per_mp(ran),
    }
    score = {label: np.array([e["score"] for r, e in ran if r.label == label]) for label in LABELS}
    everywhere = {
        label: np.array([e["score"] if e["outcome"] == "tested" else -math.inf for r, e in entries if r.label == label])
        for label in LABELS
    }
    for label in ACCUSING:
        result[label] = {
            "auc": auc(score[label], score["authentic"]),
            "tpr_at_fpr_1": tpr_at_fpr(everywhere[label], everywhere["authentic"], 0.01),
            "tpr_at_fpr_5": tpr_at_fpr(everywhere[label], everywhere["authentic"], 0.05),
        }
    for label in LABELS:
        found = [e["detected"] for r, e in entries if r.label == label]
        result[f"detected_{label}"] = [int(sum(found)), len(found)]
    pixels = [e["pixel"] for r, e in ran if r.label == "manipulated" and "pixel" in e]
    if pixels:
        result["pixel"] = {"n": len(pixels), **{k: float(np.mean([p[k] for p in pixels])) for k in pixels[0]}}
    return result


def _ms_per_mp(ran: Sequence[tuple[Record, dict[str, Any]]]) -> float:
    megapixels = sum(r.megapixels for r, _ in ran)
    return 1000 * sum(e["seconds"] for _, e in ran) / megapixels if megapixels else math.nan


def _pair(verdicts: Sequence[Judged], label: str, value: Callable[[Judged], float]) -> tuple[FloatArray, FloatArray]:
    targets = np.array([value(j) for j in verdicts if j.record.label == label])
    others = np.array([value(j) for j in verdicts if j.record.label == "authentic"])
    return targets, others


def _lr_figures(targets: FloatArray, others: FloatArray) -> dict[str, float]:
    return {
        "auc": auc(targets, others),
        "tpr_at_fpr_1": tpr_at_fpr(targets, others, 0.01),
        "tpr_at_fpr_3": tpr_at_fpr(targets, others, 0.03),
        "tpr_at_fpr_5": tpr_at_fpr(targets, others, 0.05),
        "cllr": cllr(targets, others),
        "cllr_min": cllr_min(targets, others),
    }


def tool_figures(verdicts: Sequence[Judged], tool: str) -> dict[str, Any]:
    """The tool's combined log10 LR, leave-one-source-out."""
    return {
        "manipulated": _lr_figures(*_pair(verdicts, "manipulated", lambda j: j.tool_log10_lr[tool][0])),
        "ai_generated": _lr_figures(*_pair(verdicts, "ai_generated", lambda j: j.tool_log10_lr[tool][1])),
    }


def fused_figures(verdicts: Sequence[Judged]) -> dict[str, Any]:
    """The fused system, leave-one-source-out."""
    labels = [j.record.label for j in verdicts]
    said: list[str] = [j.result.verdict for j in verdicts]
    decided = [(label, verdict) for label, verdict in zip(labels, said, strict=True) if verdict != "uncertain"]
    camera = [j for j in verdicts if j.record.source in CAMERA_SOURCES and j.record.label == "authentic"]
    authentic = [j for j in verdicts if j.record.label == "authentic"]
    stated, correct = stated_probabilities(verdicts)
    return {
        "manipulated": _lr_figures(*_pair(verdicts, "manipulated", lambda j: j.result.log10_lr_manipulated)),
        "ai_generated": _lr_figures(*_pair(verdicts, "ai_generated", lambda j: j.result.log10_lr_ai_generated)),
        "accused_camera": _accused(camera),
        "accused_authentic": _accused(authentic),
        "macro_f1": macro_f1(labels, said, LABELS),
        "macro_f1_decided": macro_f1([a for a, _ in decided], [b for _, b in decided], LABELS),
        "decided": [len(decided), len(said)],
        "ece": ece(stated, correct),
        "confusion": {
            label: {
                v: sum(a == label and b == v for a, b in zip(labels, said, strict=True)) for v in (*LABELS, "uncertain")
            }
            for label in LABELS
        },
    }


def stated_probabilities(verdicts: Sequence[Judged]) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
    """Posterior of each hypothesis under the classes' true shares in this set, and whether it is so; shape (3 n,).

    The stated prior is policy; calibration is judged with the prior that holds here.
    """
    shares = [max(sum(j.record.label == label for j in verdicts), 1) for label in LABELS]
    stated, correct = [], []
    for j in verdicts:
        lrs = (0.0, j.result.log10_lr_manipulated, j.result.log10_lr_ai_generated)
        odds = [share * 10.0 ** min(lr, 30.0) for share, lr in zip(shares, lrs, strict=True)]
        stated += [value / sum(odds) for value in odds]
        correct += [j.record.label == label for label in LABELS]
    return np.array(stated), np.array(correct, bool)


def _accused(verdicts: Sequence[Judged]) -> dict[str, Any]:
    count = sum(j.result.verdict in ACCUSING for j in verdicts)
    low, high = Rate(count, len(verdicts)).interval
    upper = clopper_pearson_upper(count, len(verdicts))
    return {"count": count, "total": len(verdicts), "wilson": [low, high], "upper_95": upper}


def _by_source(verdicts: Sequence[Judged]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for source, label in sorted({(j.record.source, j.record.label) for j in verdicts}):
        said = [j.result.verdict for j in verdicts if (j.record.source, j.record.label) == (source, label)]
        counts = {v: said.count(v) for v in (*LABELS, "uncertain")}  # type: ignore[arg-type]
        table[f"{source}/{label}"] = {"n": len(said), **counts}
    return table


def _exif_rule(records: Sequence[Record]) -> dict[str, Any]:
    """The rule "no camera make in EXIF, hence AI generated; else authentic"."""
    entries = [(r, r.observations["baseline.no_exif"]) for r in records if "baseline.no_exif" in r.observations]
    said = ["ai_generated" if e["detected"] else "authentic" for _, e in entries]
    accused = [v for (r, _), v in zip(entries, said, strict=True) if r.label == "authentic"]
    return {
        "macro_f1": macro_f1([r.label for r, _ in entries], said, LABELS),
        "accused_authentic": [accused.count("ai_generated"), len(accused)],
    }


def _forged(records: Sequence[Record], test: str, forgery: str) -> list[int]:
    found = [r.observations[test]["detected"] for r in records if r.rung == forgery and test in r.observations]
    return [int(sum(found)), len(found)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return round(value, 4) if math.isfinite(value) else None
    return value
