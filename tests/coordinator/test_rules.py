"""The explanation that rules write."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.case import Case, Measurement, ToolEvidence
from coordinator.explanation.catalogue import load_catalogue
from coordinator.explanation.rules import write_explanation
from coordinator.explanation.text import Explanation
from tests.coordinator.cases import CLEAN, COPY, GENERATED, GRID, NOISE, OPEN, SPLICED, make_case

CASES = {
    "spliced": SPLICED,
    "generated": GENERATED,
    "clean": CLEAN,
    "open": OPEN,
    "nothing": make_case("uncertain", COPY),
}


def text(explanation: Explanation) -> str:
    sentences = [
        *explanation.summary,
        *(s for r in explanation.readings for s in r.sentences),
        *explanation.uncertainties,
    ]
    return "\n".join(s.text for s in sentences)


@pytest.mark.parametrize("language", ["en", "ko"])
@pytest.mark.parametrize("name", CASES)
class TestEveryCase:
    def test_has_a_summary_a_reading_for_each_tool_and_uncertainties(self, name: str, language: str) -> None:
        case = CASES[name]
        explanation = write_explanation(case, load_catalogue(language))
        assert 2 <= len(explanation.summary) <= 4
        assert [reading.tool for reading in explanation.readings] == [tool.tool for tool in case.tools]
        assert all(reading.sentences for reading in explanation.readings)
        assert explanation.uncertainties
        assert all(s.author == "rules" for s in explanation.summary)

    def test_every_finding_is_spoken_of(self, name: str, language: str) -> None:
        case = CASES[name]
        explanation = write_explanation(case, load_catalogue(language))
        spoken = {i for reading in explanation.readings for s in reading.sentences for i in s.finding_ids}
        assert spoken == {finding.id for finding in case.findings()}

    def test_nothing_is_called_fake_or_proven_and_no_placeholder_is_left(self, name: str, language: str) -> None:
        written = text(write_explanation(CASES[name], load_catalogue(language)))
        for word in ("fake", "proves that", "certainly", "가짜", "입증", "확실", "{", "}"):
            assert word not in written


def summary(case: Case, language: str = "en") -> str:
    return " ".join(s.text for s in write_explanation(case, load_catalogue(language)).summary)


def test_the_summary_says_verdict_strength_probability_and_place() -> None:
    written = summary(SPLICED)
    assert "moderate support" in written
    assert "edited after capture" in written
    assert "93 %" in written
    assert "upper right" in written
    assert "120 x 80 px at (700, 10)" in written


@pytest.mark.parametrize(
    ("after", "strength"), [(0.16, "no appreciable"), (0.3, "weak"), (0.93, "moderate"), (0.99, "moderately strong")]
)
def test_the_strength_follows_the_verbal_scale(after: float, strength: str) -> None:
    posterior = replace(SPLICED.fusion.posterior, manipulated=after, authentic=1 - after, ai_generated=0.0)
    case = replace(SPLICED, fusion=replace(SPLICED.fusion, posterior=posterior))
    assert f"{strength} support" in summary(case)


def test_authentic_says_what_was_tested_and_that_nothing_found_says_little() -> None:
    written = summary(CLEAN)
    assert "None of the 2 tests" in written
    assert "says little" in written


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("evidence.too_weak", "too weak"),
        ("evidence.undetected", "threshold"),
        ("tests.too_few", "Too few"),
        ("some.new_rule", "do not reach"),
    ],
)
def test_uncertain_says_why(rule: str, words: str) -> None:
    assert words in summary(replace(OPEN, fusion=replace(OPEN.fusion, rule=rule)))


def test_a_detected_finding_without_weight_is_said_not_to_count() -> None:
    case = make_case("uncertain", replace(GRID, log10_lr_manipulated=0.0), NOISE)
    assert "did not count" in text(write_explanation(case, load_catalogue("en")))


def test_a_failed_tool_and_a_failed_test_are_named() -> None:
    failed = ToolEvidence("noise", "failed", (), "out of memory")
    case = replace(SPLICED, tools=(SPLICED.tools[0], failed, *SPLICED.tools[2:]))
    assert "failed as a whole" in text(write_explanation(case, load_catalogue("en")))
    broken = replace(NOISE, outcome="failed", reason="ValueError")
    written = text(write_explanation(make_case("manipulated", GRID, broken), load_catalogue("en")))
    assert "1 broke" in written
    assert "noise level map" in written


def test_a_poor_file_asks_for_the_original() -> None:
    assert "came from the camera" in text(
        write_explanation(make_case("uncertain", GRID, jpeg_quality=60), load_catalogue("en"))
    )
    assert "came from the camera" not in text(write_explanation(SPLICED, load_catalogue("en")))


def test_unused_measurements_do_no_harm() -> None:
    odd = replace(GRID, measurements=(*GRID.measurements, Measurement("{evil}", float("inf"), "1")))
    assert "640 votes" in text(write_explanation(make_case("manipulated", odd), load_catalogue("en")))
