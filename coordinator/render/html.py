"""Self-contained HTML: one page per picture, one index over many. Nothing in a page comes from elsewhere.

All text is escaped by the template engine; beyond that a content security policy lets no script or style run but the
page's own, named by digest. Facts are in the page without JavaScript.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.render import phrases
from coordinator.render.document import FUSED_MAP
from coordinator.render.labels import Labels
from coordinator.render.page import render_page
from coordinator.render.picture import Overlay, Preview, overlay
from coordinator.render.schema import Document, Finding, HeatMap, ReportDocument, Sentence
from maifs.common.v1 import finding_pb2

PROVENANCE = {
    "watermark.content_credentials",
    "watermark.metadata_source",
    "watermark.metadata_software",
    "watermark.metadata_consistency",
}
"""Tests whose results stand beside the metadata."""
MOST_TRACES = 8
"""Bars in the plot of what was found."""
VERDICTS = ("authentic", "manipulated", "ai_generated", "uncertain")


@dataclass(frozen=True, eq=False)
class MapLayer:
    """A heat map of the page."""

    number: int
    key: str
    name: str
    meaning: str
    significant: bool
    overlay: Overlay
    shown: bool
    """Whether it lies over the picture when the page opens."""


@dataclass(frozen=True)
class MarkedRegion:
    """A numbered rectangle of the page."""

    number: int
    finding_id: str
    name: str
    x_px: int
    y_px: int
    width_px: int
    height_px: int


@dataclass(frozen=True, eq=False)
class IndexEntry:
    """One row of the index."""

    path: str
    verdict: str
    """A verdict or "failed"."""
    probability: float | None
    """Of the verdict's hypothesis; None without one ("uncertain" has none of its own)."""
    found: tuple[str, ...]
    """Titles of the tests that found their trace."""
    error: str
    html_file: str
    dimensions: str
    thumbnail: bytes

    @classmethod
    def of(cls, document: Document, thumbnail: bytes, t: Labels) -> IndexEntry:
        """The row of a picture.

        Args:
            document: its report or error.
            thumbnail: small JPEG; may be empty.
            t: words.
        """
        if document["status"] == "error":
            error = document["error"]
            text = f"{error['reason']}: {error['message']}"
            return cls(document["path"], "failed", None, (), text, "", "", thumbnail)
        found = [
            phrases.title_of_test(f["id"], t) for tool in document["tools"] for f in tool["findings"] if f["detected"]
        ]
        image = document["image"]
        return cls(
            path=document["path"],
            verdict=document["verdict"],
            probability=None if document["verdict"] == "uncertain" else document["probability"],
            found=tuple(found),
            error="",
            html_file=document["html_file"] or "",
            dimensions=f"{image['width_px']} × {image['height_px']}",
            thumbnail=thumbnail,
        )


def render_report(
    document: ReportDocument, preview: Preview | None, maps: Mapping[str, finding_pb2.HeatMap], t: Labels
) -> str:
    """The page of one picture.

    Args:
        document: the report.
        preview: the picture; None shows the maps and regions over an empty ground.
        maps: heat maps by key of `document.heat_maps`.
        t: words.
    """
    findings = {finding["id"]: finding for tool in document["tools"] for finding in tool["findings"]}
    return render_page(
        "report.html.j2",
        t,
        doc=document,
        preview=preview,
        layers=_layers(document, findings, maps, t),
        regions=_regions(findings, t),
        provenance=[finding for key, finding in findings.items() if key in PROVENANCE],
        own_sentences=functools.partial(_own_sentences, document),
        general_sentences=functools.partial(_general_sentences, document),
    )


def render_index(entries: Sequence[IndexEntry], t: Labels) -> str:
    """The index over several pictures; its links point to files in the same folder."""
    counts = Counter(entry.verdict for entry in entries)
    return render_page(
        "index.html.j2",
        t,
        entries=entries,
        counts=[(verdict, counts[verdict]) for verdict in (*VERDICTS, "failed") if counts[verdict]],
        traces=Counter(trace for entry in entries for trace in entry.found).most_common(MOST_TRACES),
    )


def _layers(
    document: ReportDocument,
    findings: Mapping[str, Finding],
    maps: Mapping[str, finding_pb2.HeatMap],
    t: Labels,
) -> list[MapLayer]:
    drawn = {key: made for key, heat_map in maps.items() if (made := overlay(heat_map)) is not None}
    shown = _first_shown(findings, drawn)
    layers: list[MapLayer] = []
    for key, made in drawn.items():
        about = document["fused_heat_map"] if key == FUSED_MAP else findings[key]["heat_map"]
        if about is not None:
            layers.append(_layer(len(layers) + 1, key, about, made, key == shown, t))
    return layers


def _layer(number: int, key: str, about: HeatMap, made: Overlay, shown: bool, t: Labels) -> MapLayer:
    name = t("map.fused") if key == FUSED_MAP else f"{t('tool.' + key.split('.')[0])}: {phrases.title_of_test(key, t)}"
    return MapLayer(number, key, name, about["meaning"], about["significant"], made, shown)


def _first_shown(findings: Mapping[str, Finding], keys: Mapping[str, Overlay]) -> str:
    """The fused map, else the strongest detection's; a map that proves nothing is never shown unasked."""
    if FUSED_MAP in keys:
        return FUSED_MAP
    detected = [
        finding
        for finding in findings.values()
        if finding["id"] in keys and finding["detected"] and finding["heat_map"] and finding["heat_map"]["significant"]
    ]
    if not detected:
        return ""
    return max(detected, key=lambda f: max(f["manipulated"]["log10_lr"], f["ai_generated"]["log10_lr"]))["id"]


def _regions(findings: Mapping[str, Finding], t: Labels) -> list[MarkedRegion]:
    found = [
        (finding["id"], region) for finding in findings.values() if finding["detected"] for region in finding["regions"]
    ]
    return [
        MarkedRegion(number, finding_id, phrases.title_of_test(finding_id, t), **region)
        for number, (finding_id, region) in enumerate(found, 1)
    ]


def _own_sentences(document: ReportDocument, finding_id: str) -> list[Sentence]:
    return phrases.readings_of(document, finding_id)


def _general_sentences(document: ReportDocument, tool: str) -> list[Sentence]:
    """A tool's sentences that do not speak of one finding alone; those stand in the finding's row."""
    return [
        sentence
        for reading in document["explanation"]["tool_readings"]
        if reading["tool"] == tool
        for sentence in reading["sentences"]
        if len(sentence["finding_ids"]) != 1
    ]
