"""Plots of the forensic benchmark: ROC, Tippett, reliability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]
Pair = tuple[FloatArray, FloatArray]
"""log10 LR of the hypothesis' pictures and of authentic ones."""


def roc(curves: Mapping[str, Pair], path: Path, title: str) -> None:
    """ROC curves by name."""
    figure, axes = plt.subplots(figsize=(5, 4.5))
    for name, (targets, others) in curves.items():
        thresholds = np.concatenate([[np.inf], np.sort(np.unique(np.concatenate([targets, others])))[::-1]])
        fpr = [(others >= t).mean() for t in thresholds]
        tpr = [(targets >= t).mean() for t in thresholds]
        axes.plot(fpr, tpr, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title=title)
    axes.legend(fontsize=8)
    _save(figure, path)


def tippett(curves: Mapping[str, Pair], path: Path, title: str) -> None:
    """Tippett plot: share of pictures whose log10 LR exceeds a value."""
    figure, axes = plt.subplots(figsize=(5, 4.5))
    for number, (name, (targets, others)) in enumerate(curves.items()):
        for values, style, label in ((targets, "-", f"{name}: hypothesis true"), (others, "--", f"{name}: authentic")):
            ordered = np.sort(values)
            axes.step(
                ordered, 1 - np.arange(len(ordered)) / max(len(ordered), 1), style, color=f"C{number}", label=label
            )
    axes.axvline(0, color="grey", linewidth=0.5)
    axes.set(xlabel="log10 LR greater than", ylabel="share of pictures", title=title)
    axes.legend(fontsize=7)
    _save(figure, path)


def reliability(curves: Mapping[str, tuple[FloatArray, npt.NDArray[np.bool_]]], path: Path, title: str) -> None:
    """Stated probability against observed share, ten bins, point area by number of pictures."""
    figure, axes = plt.subplots(figsize=(5, 4.5))
    for name, (stated, correct) in curves.items():
        index = np.minimum((stated * 10).astype(int), 9)
        used: Sequence[int] = [b for b in range(10) if (index == b).any()]
        x = [stated[index == b].mean() for b in used]
        y = [correct[index == b].mean() for b in used]
        axes.plot(x, y, linewidth=0.8)
        axes.scatter(x, y, s=[4 + 2 * int((index == b).sum()) for b in used], alpha=0.7, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    axes.set(xlabel="stated probability of a hypothesis", ylabel="share that is so", title=title)
    axes.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)
