"""Figures of maps beside each other, and their tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np
import numpy.typing as npt

from benchmarks.forensics_metrics import Rate
from benchmarks.peer_methods import Peer
from vision_service.domain import HeatMap
from vision_service.labelled import pixel_figures


@dataclass(frozen=True)
class Localisation:
    """How well one map tells edited pixels from others."""

    auc: float
    """With bright meaning edited."""
    auc_either: float
    """With the sign that suits the mask."""
    f1_either: float
    """At the threshold and with the sign that suit the mask."""

    @classmethod
    def of(cls, heat_map: HeatMap, mask: npt.NDArray[np.bool_]) -> Localisation:
        """Figures of a map and of its negative."""
        figures = pixel_figures(heat_map, mask)
        negative = pixel_figures(replace(heat_map, values=255 - heat_map.values), mask)
        return cls(figures.auc, max(figures.auc, negative.auc), max(figures.f1_best, negative.f1_best))


@dataclass(frozen=True)
class Cell:
    """One method on one picture."""

    megapixels: float
    seconds: float
    localisation: Localisation | None
    """None when there is no map."""
    reason: str = ""
    """Why there is no map."""

    @classmethod
    def of(
        cls, megapixels: float, seconds: float, heat_map: HeatMap | None, mask: npt.NDArray[np.bool_], reason: str
    ) -> Cell:
        """A cell with the figures of its map."""
        if heat_map is None:
            return cls(megapixels, seconds, None, reason)
        return cls(megapixels, seconds, Localisation.of(heat_map, mask))


Figures = dict[str, dict[str, Cell]]
"""Method -> file name -> cell."""


def ms_per_mp(cells: Iterable[Cell]) -> float:
    """CPU milliseconds per megapixel over all pictures together."""
    cells = list(cells)
    return 1e3 * sum(cell.seconds for cell in cells) / sum(cell.megapixels for cell in cells)


def map_table(figures: Figures) -> str:
    """Markdown: one line a method over the pictures it was run on; figures of maps over those that it made."""
    lines = [
        "| method | pictures | maps | ms/MP | AUC | AUC, either sign | best F1, either sign |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for method, cells in figures.items():
        made = [cell.localisation for cell in cells.values() if cell.localisation]
        row = [method, str(len(cells)), str(len(made)), f"{ms_per_mp(cells.values()):.0f}", *_means(made)]
        lines.append(f"| {' | '.join(row)} |")
    failed = {
        method: sorted({cell.reason for cell in cells.values() if not cell.localisation})
        for method, cells in figures.items()
        if method.startswith("pyIFD ")
    }
    lines += [f"\nNo map by {method}: {'; '.join(reasons)}." for method, reasons in failed.items() if reasons]
    return "\n".join(lines)


def pair_table(figures: Figures, peers: Sequence[Peer]) -> str:
    """Markdown: each method beside the tests it answers to, times over the pictures that both were run on, figures of
    maps over those of which both made one.
    """
    lines = [
        "| theirs | ours | pictures | their ms/MP | ours | times ours | both maps | AUC either: theirs | ours "
        "| F1 either: theirs | ours |",
        "|---|---|" + "---:|" * 9,
    ]
    for peer in peers:
        theirs = figures.get(f"pyIFD {peer.name}", {})
        for test_id in peer.ours:
            ours = figures.get(test_id, {})
            if names := [name for name in theirs if name in ours]:
                row = _pair([theirs[name] for name in names], [ours[name] for name in names])
                lines.append(f"| {peer.name} | {test_id} | {' | '.join(row)} |")
    return "\n".join(lines)


def _pair(theirs: list[Cell], ours: list[Cell]) -> list[str]:
    their_ms, our_ms = ms_per_mp(theirs), ms_per_mp(ours)
    both = [(a.localisation, b.localisation) for a, b in zip(theirs, ours, strict=True)]
    made = [(a, b) for a, b in both if a and b]
    their_means, our_means = _means([a for a, _ in made]), _means([b for _, b in made])
    figures = [their_means[1], our_means[1], their_means[2], our_means[2]]
    return [str(len(theirs)), f"{their_ms:.0f}", f"{our_ms:.0f}", f"{their_ms / our_ms:.1f}", str(len(made)), *figures]


def _means(made: Sequence[Localisation]) -> list[str]:
    if not made:
        return ["–"] * 3
    columns = zip(*((m.auc, m.auc_either, m.f1_either) for m in made), strict=True)
    return [f"{fmean(column):.3f}" for column in columns]


def false_alarm_table(authentic: Mapping[str, tuple[int, int]], forgeries: Mapping[str, tuple[int, int]]) -> str:
    """Markdown: detections on authentic pictures and on forgeries, each of those on which the test ran."""
    lines = ["| test | false alarms on authentic, 95 % interval | detections on forgeries |", "|---|---|---|"]
    for test_id, (ran, detected) in authentic.items():
        found_ran, found = forgeries.get(test_id, (0, 0))
        lines.append(f"| {test_id} | {Rate(detected, ran)} | {found}/{found_ran} |")
    return "\n".join(lines)
