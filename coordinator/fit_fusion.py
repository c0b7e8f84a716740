"""Fits the weights of the traces and writes the fusion file: `python -m coordinator.fit_fusion --evidence FILE`."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from coordinator.fusion import DEFAULT_FILE, FusionModel, group_shares
from serving.errors import ExitCode, MaifsError, Reason

VERSION = "0.1"

PRIOR = {"authentic": 0.50, "manipulated": 0.25, "ai_generated": 0.25}
"""Stated: as many genuine pictures as others, as where pictures are sent because somebody doubts them. Override it
where the mix is known. Chosen together with `COSTS`, see there."""

COSTS = {"accuse_authentic": 8.0, "wrong_kind": 3.0, "clear_forged": 4.0}
"""In units of the cost of "uncertain": an accusation needs P(authentic) < 1/8 and a detection, with the stated prior a
combined likelihood ratio above about 16; "authentic" needs P(authentic) > 3/4. Prior, costs and the limits below were
chosen from about 30 settings by the leave-one-source-out verdicts on the labelled pictures, so the verdict figures on
those are somewhat too good."""

AUTHENTIC = {"min_traces": 3, "max_log10_lr_manipulated": -0.05, "max_log10_lr_ai_generated": -0.5}
"""When "authentic" may be said without a credential.

Finding no trace of a generator is not enough, since most leave none that survives: something that a camera leaves must
be there (its sensor's lattice, a thumbnail that fits).
"""

RULES: Mapping[str, str] = {
    "watermark.content_credentials.ai": "provenance.ai_declared",
    "watermark.content_credentials.ai_composite": "provenance.ai_edit_declared",
    "watermark.content_credentials.changed_after_signing": "provenance.changed_after_signing",
    "watermark.content_credentials.edited": "provenance.edit_declared",
    "watermark.content_credentials.capture_trusted": "provenance.capture_intact",
    "watermark.metadata_source.declared_ai": "provenance.ai_declared",
    "watermark.metadata_source.declared_ai_edit": "provenance.ai_edit_declared",
    "watermark.metadata_source.declared_edit": "provenance.edit_declared",
    "watermark.metadata_consistency.thumbnail_content_differs": "provenance.thumbnail_differs",
    "watermark.dwt_dct.detected": "provenance.known_watermark",
    "watermark.dwt_dct_svd.detected": "provenance.known_watermark",
    "watermark.rivagan.detected": "provenance.known_watermark",
}
"""Rule names of provenance by the beginning of an explanation key."""

OPINIONS: Mapping[str, Mapping[str, Any]] = {
    source: {"weight": 0.0, "cap": 0.5, "provenance": "not measured"} for source in ("second_look", "picture_reading")
}
"""How far opinions of a language model move the verdict: not at all until that was measured on labelled pictures."""

POLICY_GROUPS = frozenset({"provenance", "known_watermark", "capture_metadata"})
"""Set by policy: their weight is 1 and is not fitted."""

RIDGE = 1.0
"""Strength of the pull towards 1 (independent traces), in images."""

FloatArray = npt.NDArray[np.float64]


def fit_document(groups: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The content of a fusion file.

    Args:
        groups: trace by test id.
        rows: out-of-fold evidence per picture: label, weight, evidence (see `coordinator.fusion.Evidence`).
    """
    names = sorted(set(groups.values()))
    fitted = {h: fit_weights(groups, names, rows, h) for h in ("manipulated", "ai_generated")}
    return {
        "version": VERSION,
        "prior": PRIOR,
        "costs": COSTS,
        "authentic": AUTHENTIC,
        "other_weight": 0.5,
        "rules": dict(RULES),
        "opinions": OPINIONS,
        "groups": {
            name: {
                "tests": sorted(test for test, group in groups.items() if group == name),
                "weight_manipulated": fitted["manipulated"][name],
                "weight_ai_generated": fitted["ai_generated"][name],
            }
            for name in names
        },
    }


def fit_weights(
    groups: Mapping[str, str], names: Sequence[str], rows: Sequence[Mapping[str, Any]], hypothesis: str
) -> dict[str, float]:
    """Weight 0..1 of each trace for one hypothesis: logistic without intercept, pulled towards 1, classes balanced.

    A weight below 1 says that the trace repeats what others say, or says too much on sources that it had not seen.
    """
    used = [row for row in rows if row["label"] in (hypothesis, "authentic")]
    targets = np.array([row["label"] == hypothesis for row in used], bool)
    if not targets.any() or targets.all():
        return dict.fromkeys(names, 1.0)
    values = np.array([_trace_values(row, groups, names, hypothesis) for row in used])
    weights = np.array([row["weight"] for row in used], float)
    n_images = min(len({row["image"] for row in used if row["label"] == label}) for label in (hypothesis, "authentic"))
    for side in (targets, ~targets):
        weights[side] *= n_images / weights[side].sum()
    signs = np.where(targets, 1.0, -1.0)
    x = values * signs[:, None] * math.log(10.0)

    def cost(w: FloatArray) -> tuple[float, FloatArray]:
        margin = x @ w
        loss = float((weights * np.logaddexp(0, -margin)).sum() + RIDGE * ((w - 1) ** 2).sum())
        gradient = -(weights / (1 + np.exp(np.clip(margin, -40, 40)))) @ x + 2 * RIDGE * (w - 1)
        return loss, gradient

    fixed = [(1.0, 1.0) if name in POLICY_GROUPS else (0.0, 1.0) for name in names]
    solution = minimize(cost, np.ones(len(names)), jac=True, bounds=fixed, method="L-BFGS-B")
    return {name: round(float(min(max(w, 0.0), 1.0)), 4) for name, w in zip(names, solution.x, strict=True)}


def _trace_values(
    row: Mapping[str, Any], groups: Mapping[str, str], names: Sequence[str], hypothesis: str
) -> list[float]:
    by_group: dict[str, list[tuple[str, float, float]]] = {name: [] for name in names}
    for item in row["evidence"]:
        if item["outcome"] == "tested":
            values = (item["finding_id"], item[f"log10_lr_{hypothesis}"], item[f"cap_{hypothesis}"])
            by_group[groups[item["finding_id"]]].append(values)
    return [math.fsum(group_shares(by_group[name]).values()) for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m coordinator.fit_fusion", description=__doc__)
    parser.add_argument("--evidence", type=Path, default=Path("build/forensics/evidence.json"),
                        help="written by `python -m vision_service.calibrate`")  # fmt: skip
    parser.add_argument("--out", type=Path, default=DEFAULT_FILE, help="fusion file (default: the packaged one)")
    options = parser.parse_args(arguments)
    try:
        content = json.loads(options.evidence.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fault = MaifsError(
            Reason.FILE_UNREADABLE, f"{options.evidence}: {error}.", "Run `python -m vision_service.calibrate` first."
        )
        print(f"fit_fusion: {fault}", file=sys.stderr)
        return fault.reason.exit_code
    document = fit_document(content["groups"], content["rows"])
    FusionModel.from_document(document)  # what is written must be readable
    options.out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{options.out}: {len(document['groups'])} traces")
    for name, group in document["groups"].items():
        print(f"  {name:24s} manipulated {group['weight_manipulated']:.2f}  AI {group['weight_ai_generated']:.2f}")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
