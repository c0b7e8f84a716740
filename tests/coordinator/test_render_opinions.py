"""Opinions of language models and reports from the cache, in all forms."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from coordinator.config import LANGUAGES
from coordinator.render.document import heat_maps, report_document, to_json
from coordinator.render.html import render_report
from coordinator.render.labels import Labels
from coordinator.render.text import report_text
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import report_pb2
from serving.errors import MaifsError, Reason
from serving.status import to_status
from tests.coordinator.cli_server import make_report
from tests.coordinator.test_cli import validate

HOSTILE = "</style><script>alert(1)</script>\x1b[31m\u202eevil"


def opinionated(*, failed: bool = False, weight: float = 0.0) -> report_pb2.Report:
    report = make_report(b"data", "a.jpg")
    look, reading = report.second_look, report.picture_reading
    look.occasion, look.model, look.prompt_version = "opposed", "m", "second_look_v1"
    turn = look.turns.add(tool=finding_pb2.TOOL_NOISE, side=finding_pb2.VERDICT_AUTHENTIC, round=2)
    turn.sentences.add(text="The noise follows one curve.", author=report_pb2.AUTHOR_MODEL)
    look.dropped_sentences.add(text=HOSTILE, reason="it holds marks")
    reading.depicted = f"A boat {HOSTILE}"
    reading.inconsistencies.add(kind=report_pb2.INCONSISTENCY_KIND_PHYSICAL, text="The shadow falls the wrong way.")
    reading.texts_in_picture.append(HOSTILE)
    reading.width_px, reading.height_px = 1024, 512
    for source in (look, reading):
        if failed:
            source.error.CopyFrom(to_status(MaifsError(Reason.DEADLINE_EXCEEDED, "too slow")))
        else:
            opinion = report_pb2.Opinion(verdict=finding_pb2.VERDICT_MANIPULATED, confidence=0.8, weight=weight)
            opinion.weight_provenance = "not measured"
            source.opinion.CopyFrom(opinion)
    report.from_cache.request_id = "abc"
    report.from_cache.serve_time.FromSeconds(1_800_000_000)
    return report


def forms(report: report_pb2.Report, language: str = "en") -> tuple[str, str]:
    """Text and HTML."""
    document = report_document(report, "a.jpg")
    console = Console(file=io.StringIO(), width=140)
    console.print(report_text(document, Labels(language)))
    assert isinstance(console.file, io.StringIO)
    page = render_report(document, None, heat_maps(report), Labels(language))
    return console.file.getvalue(), page


@pytest.mark.parametrize("failed", [False, True])
def test_the_json_form_follows_the_schema(failed: bool) -> None:
    document = json.loads(to_json(report_document(opinionated(failed=failed), "a.jpg")))
    validate(document)
    assert document["second_look"]["turns"][0]["side"] == "authentic"
    assert document["picture_reading"]["inconsistencies"] == [
        {"kind": "physical", "text": "The shadow falls the wrong way."}
    ]
    assert (document["second_look"]["opinion"] is None) == failed
    assert document["from_cache"] == {"serve_time": "2027-01-15T08:00:00Z", "request_id": "abc"}


def test_without_them_the_fields_are_null() -> None:
    document = json.loads(to_json(report_document(make_report(b"data", "a.jpg"), "a.jpg")))
    assert [document[name] for name in ("second_look", "picture_reading", "from_cache")] == [None] * 3
    validate(document)


@pytest.mark.parametrize("language", LANGUAGES)
def test_text_and_page_show_them_and_what_they_count_for(language: str) -> None:
    t = Labels(language)
    for form in forms(opinionated(), language):
        assert "The noise follows one curve." in form
        assert "The shadow falls the wrong way." in form
        assert t("opinion.no_weight") in form
        assert t("picture_reading") in form
        assert "2027-01-15" in form
    for form in forms(opinionated(weight=0.25), language):
        assert t("opinion.no_weight") not in form
        assert "0.25" in form


def test_a_failed_one_says_why() -> None:
    for form in forms(opinionated(failed=True)):
        assert "too slow" in form


def test_hostile_text_is_harmless_in_both() -> None:
    text, page = forms(opinionated())
    for form in (text, page):
        assert "\x1b[31m" not in form
        assert "\u202e" not in form
    assert "<script>alert(1)" not in page
