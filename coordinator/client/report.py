"""A report as Python sees it: thin, over the message that the coordinator sent."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from coordinator.client.pictures import FilePicture, Picture
from maifs.coordinator.v1 import report_pb2
from serving.errors import MaifsError

if TYPE_CHECKING:
    from coordinator.render.schema import Finding, Posterior, ReportDocument, Tool


class Verdict(enum.StrEnum):
    """The answer of a report."""

    AUTHENTIC = "authentic"
    MANIPULATED = "manipulated"
    AI_GENERATED = "ai_generated"
    UNCERTAIN = "uncertain"


class Report:
    """What was found on one picture.

    Attributes:
        message: the report as it was sent, maifs.coordinator.v1.Report; all else is read from it.
        picture: what was sent, for the pictures in `to_html`.
    """

    def __init__(self, message: report_pb2.Report, picture: Picture) -> None:
        self.message, self.picture = message, picture

    def __repr__(self) -> str:
        return f"<Report {self.name!r}: {self.verdict}, probability {self.probability:.2f}>"

    @property
    def name(self) -> str:
        """The path of the file, or the name that was given with bytes or an array."""
        return self.picture.name

    @property
    def verdict(self) -> Verdict:
        """The answer; it prints as "manipulated" and compares equal to that text."""
        return Verdict(self.document["verdict"])

    @property
    def probability(self) -> float:
        """Of the verdict's hypothesis, 0..1; for "uncertain" the largest of the three."""
        return self.message.probability

    @property
    def posterior(self) -> Posterior:
        """Probabilities of "authentic", "manipulated" and "ai_generated"; they add up to 1."""
        return self.document["posterior"]

    @property
    def summary(self) -> str:
        """Two to four sentences for a reader in a hurry."""
        return " ".join(sentence["text"] for sentence in self.document["explanation"]["summary"])

    @property
    def tools(self) -> list[Tool]:
        """What each tool says, with its findings; docs/report-json.md explains the fields."""
        return self.document["tools"]

    @property
    def detections(self) -> list[Finding]:
        """The findings that found their trace, over all tools."""
        return [finding for tool in self.tools for finding in tool["findings"] if finding["detected"]]

    @property
    def warnings(self) -> list[str]:
        """Tools that failed."""
        return list(self.message.warnings)

    @property
    def sha256(self) -> str:
        """Of the file that was analysed, 64 hexadecimal digits."""
        return self.message.image.sha256.hex()

    @cached_property
    def document(self) -> ReportDocument:
        """The JSON form as a dict; docs/report-schema.json is its schema."""
        from coordinator.render.document import report_document

        return report_document(self.message, self.name)

    @property
    def heat_maps(self) -> dict[str, bytes]:
        """Maps over the picture as greyscale PNG files by finding id, the merged one as "fused"."""
        from coordinator.render.document import heat_maps

        return {key: heat_map.png for key, heat_map in heat_maps(self.message).items()}

    def to_json(self, *, indent: int | None = None) -> str:
        """The JSON form, on one line unless `indent` is given."""
        from coordinator.render.document import to_json

        return to_json(self.document, indent=indent)

    def to_html(self, *, lang: str = "en") -> str:
        """The page of the command line's --out: self-contained, with the picture and the maps over it.

        The picture is read again where it was given as a path; where it is gone or changed, the page says so.

        Args:
            lang: of the labels, "en" or "ko".
        """
        from coordinator.render.document import heat_maps
        from coordinator.render.html import render_report
        from coordinator.render.labels import Labels
        from coordinator.render.picture import load_preview

        source = self.picture.path if isinstance(self.picture, FilePicture) else self.picture.data
        preview = load_preview(source, self.message.image)
        return render_report(self.document, preview, heat_maps(self.message), Labels(lang))


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one picture of a batch: a report or an error."""

    index: int
    """Place in the input, from 0."""
    name: str
    """The path or the name that was given."""
    report: Report | None = None
    error: MaifsError | None = None

    def result(self) -> Report:
        """The report.

        Raises:
            MaifsError: the picture's error.
        """
        if self.report is None:
            assert self.error is not None
            raise self.error
        return self.report
