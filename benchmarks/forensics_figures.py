"""Which plots the forensic benchmark draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.forensics_loso import Judged
from benchmarks.forensics_plots import Pair, reliability, roc, tippett
from benchmarks.forensics_summary import stated_probabilities

NAMES = {"manipulated": "manipulated", "ai_generated": "AI generated"}


def draw(judged: Sequence[Judged], folder: Path) -> None:
    """Writes forensics-roc-*.png, forensics-tippett-*.png and forensics-reliability.png."""
    rungs = sorted({j.record.rung for j in judged}, key=lambda rung: (rung != "native", rung))
    for hypothesis, name in NAMES.items():
        curves = {rung: _pair(judged, rung, hypothesis) for rung in rungs}
        curves = {rung: pair for rung, pair in curves.items() if len(pair[0]) and len(pair[1])}
        short = hypothesis.partition("_")[0]
        roc(curves, folder / f"forensics-roc-{short}.png", f"{name} against authentic, leave-one-source-out")
        tippett(curves, folder / f"forensics-tippett-{short}.png", f"{name} against authentic, leave-one-source-out")
    stated = {rung: stated_probabilities([j for j in judged if j.record.rung == rung]) for rung in rungs}
    reliability(stated, folder / "forensics-reliability.png", "Reliability, leave-one-source-out")


def _pair(judged: Sequence[Judged], rung: str, hypothesis: str) -> Pair:
    def values(label: str) -> list[float]:
        return [
            float(getattr(j.result, f"log10_lr_{hypothesis}"))
            for j in judged
            if j.record.rung == rung and j.record.label == label
        ]

    return np.array(values(hypothesis)), np.array(values("authentic"))
