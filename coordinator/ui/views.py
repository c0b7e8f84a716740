"""What the templates show, made of domain objects."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from coordinator.client import Report
from coordinator.client.pictures import FilePicture
from coordinator.render import phrases
from coordinator.render.document import tool_name, verdict_name
from coordinator.render.labels import Labels
from coordinator.render.picture import load_preview
from coordinator.ui.batches import BatchPage
from coordinator.ui.pictures import UiPicture
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import batch_pb2

TOOLS = ("frequency", "noise", "watermark", "spatial")


@dataclass(frozen=True)
class ToolChip:
    """One tool on a card."""

    name: str
    state: str
    """"waiting", "found", "quiet", "failed"."""
    text: str


@dataclass(frozen=True)
class PictureCard:
    """A picture in the list."""

    id: str
    name: str
    verdict: str
    """A verdict, "failed", or empty while there is none."""
    probability: float | None
    summary: str
    error: str
    tools: list[ToolChip]
    has_report: bool
    ended: bool

    @classmethod
    def of(cls, picture: UiPicture, t: Labels) -> PictureCard:
        """As things stand."""
        results = {tool_name(result.tool): result for result in picture.tools}
        verdict = "failed" if picture.error else ""
        if picture.report:
            verdict = picture.report.verdict.value
            results = {tool_name(result.tool): result for result in picture.report.message.tool_results}
        elif picture.verdict and not picture.error:
            verdict = verdict_name(picture.verdict.verdict)
        shown = picture.verdict.probability if picture.verdict and verdict not in {"uncertain", "failed", ""} else None
        return cls(
            id=picture.id,
            name=picture.name,
            verdict=verdict,
            probability=shown,
            summary=picture.report.summary if picture.report else "",
            error=str(picture.error or ""),
            tools=[_chip(tool, results.get(tool), t) for tool in TOOLS],
            has_report=picture.report is not None,
            ended=picture.ended,
        )


def _chip(tool: str, result: finding_pb2.ToolResult | None, t: Labels) -> ToolChip:
    name = t(f"tool.{tool}")
    if result is None:
        return ToolChip(name, "waiting", t("ui.waiting"))
    if result.outcome == finding_pb2.OUTCOME_FAILED:
        return ToolChip(name, "failed", t("result.failed"))
    found = [phrases.title_of_test(finding.id, t) for finding in result.findings if finding.detected]
    return ToolChip(name, "found" if found else "quiet", ", ".join(found) or t("ui.nothing_found"))


@dataclass(frozen=True)
class Row:
    """An item of a batch."""

    name: str
    verdict: str
    """A verdict, "failed", or empty while there is none."""
    probability: float | None
    state: str
    note: str
    key: str
    """Of its report; empty when it has none."""


def item_rows(page: BatchPage, t: Labels) -> list[Row]:
    """The items of a page."""
    return [_row(page.batch.batch_id, item, t) for item in page.items]


def _row(batch_id: str, item: batch_pb2.BatchItem, t: Labels) -> Row:
    state = batch_pb2.BatchItemState.Name(item.state).removeprefix("BATCH_ITEM_STATE_").lower()
    reported = item.state == batch_pb2.BATCH_ITEM_STATE_REPORTED
    verdict = verdict_name(item.verdict) if reported else "failed" if item.HasField("error") else ""
    return Row(
        name=item.name,
        verdict=verdict,
        probability=item.probability if reported and verdict != "uncertain" else None,
        state=t(f"state.{state}"),
        note=item.error.message if item.HasField("error") else "",
        key=f"batch/{batch_id}/{item.position}" if reported else "",
    )


@dataclass(frozen=True)
class Column:
    """One report of a comparison."""

    key: str
    report: Report
    preview: str
    """A data: address; empty when the picture cannot be shown."""


@dataclass(frozen=True)
class CompareRow:
    """One test over the compared reports."""

    title: str
    cells: list[tuple[str, str]]
    """Result class and words, by report."""

    @property
    def differs(self) -> bool:
        """Whether the results are not all the same."""
        return len({name for name, _ in self.cells}) > 1


def comparison(reports: Sequence[tuple[str, Report]], t: Labels) -> tuple[list[Column], list[CompareRow]]:
    """Reports side by side: columns, and a row for every test that ran in one of them."""
    columns = [Column(key, report, _preview(report)) for key, report in reports]
    by_report = [{f["id"]: f for tool in report.tools for f in tool["findings"]} for _, report in reports]
    rows = []
    for finding_id in dict.fromkeys(finding_id for findings in by_report for finding_id in findings):
        cells = []
        for findings in by_report:
            finding = findings.get(finding_id)
            if finding is None:
                cells.append(("not_applicable", "–"))
                continue
            words = t(phrases.result_key(finding))
            if finding["outcome"] == "tested":
                words += ": " + ", ".join(phrases.finding_phrases(finding, t))
            cells.append((phrases.result_key(finding).partition(".")[2], words))
        if any(name in {"found", "not_found", "failed"} for name, _ in cells):
            rows.append(CompareRow(phrases.title_of_test(finding_id, t), cells))
    return columns, sorted(rows, key=lambda row: not row.differs)


def _preview(report: Report) -> str:
    source = report.picture.path if isinstance(report.picture, FilePicture) else report.picture.data
    preview = load_preview(source, report.message.image)
    return f"data:image/jpeg;base64,{base64.b64encode(preview.jpeg).decode()}" if preview else ""
