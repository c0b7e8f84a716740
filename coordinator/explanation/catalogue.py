"""Message catalogues: the words of rule-written explanations, one file for each language."""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from coordinator.case import Case, Finding, Region
from coordinator.explanation.untrusted import harmless

_FOLDER = Path(__file__).parent
_ENFSI_STEPS = (0.3, 1.0, 2.0, 3.0, 4.0, 6.0)
"""log10 likelihood ratios between the steps of the verbal scale (ENFSI Guideline for Evaluative Reporting, 2015)."""


class Number(float):
    """A measured number that formats itself for readers; `{x:percent}` shows a ratio in percent."""

    def __format__(self, spec: str) -> str:
        """Three significant digits, no exponent between 1e-3 and 1e6."""
        if spec == "percent":
            return f"{number(100 * float(self))} %"
        return number(self) if not spec else float.__format__(self, spec)

    __str__ = __format__  # type: ignore[assignment]


def number(value: float) -> str:
    """A number for readers: whole when it is, else three significant digits."""
    value = float(value)
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    if 1e-3 <= abs(value) < 1e6:
        text = f"{value:.{max(0, 2 - _exponent(value))}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.1e}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".partition("e")[2])


def percent(probability: float) -> str:
    """A probability for readers; never 0 % or 100 %, which nothing here can claim."""
    if probability > 0.99:
        return "> 99 %" if probability > 0.995 else "99 %"
    if probability < 0.01:
        return "< 1 %"
    return f"{100 * probability:.0f} %"


@dataclass(frozen=True)
class Message:
    """What a finding of one kind says."""

    text: str
    plain: str = ""
    """The text for a finding that lacks a value which `text` uses."""
    caveat: str = ""
    """Innocent causes of the same trace, or what the test cannot see."""


class Catalogue:
    """The words of one language."""

    def __init__(self, language: str, document: Mapping[str, Any]) -> None:
        self.language = language
        self._phrases: Mapping[str, Any] = document["phrases"]
        self._titles: Mapping[str, str] = document["titles"]
        self._findings = {key: Message(**entry) for key, entry in document["findings"].items()}
        self._not_applicable: Mapping[str, str] = document["not_applicable"]

    @property
    def keys(self) -> frozenset[str]:
        """Explanation keys that have an entry of their own."""
        return frozenset(self._findings) | {f"not_applicable.{code}" for code in self._not_applicable}

    def texts_of(self, finding_id: str) -> tuple[str, ...]:
        """All that the catalogue can say of a test: its title and the entries of its keys."""
        entries = [m for key, m in self._findings.items() if key.startswith(f"{finding_id}.")]
        return (self.title(finding_id), *(text for m in entries for text in (m.text, m.plain, m.caveat) if text))

    def phrase(self, name: str, **values: object) -> str:
        """A phrase with its values put in."""
        text: Any = self._phrases
        for part in name.split("."):
            text = text[part]
        return str(text).format(**values)

    def title(self, finding_id: str) -> str:
        """What a test is called; its id in plain words when the catalogue does not know it."""
        known = self._titles.get(finding_id)
        return known or finding_id.partition(".")[2].replace("_", " ")

    def finding(self, finding: Finding) -> str:
        """What a finding says. A key that the catalogue lacks gets a sound sentence of test, outcome and score."""
        if finding.outcome == "not_applicable":
            return self.phrase("not_applicable", test=self.title(finding.id), reason=self.inapplicable(finding))
        if finding.outcome == "failed":
            return self.phrase("failed", test=self.title(finding.id))
        message = self._findings.get(finding.explanation_key, Message(""))
        values = template_values(finding)
        for text in (message.text, message.plain):
            if text and _fields(text) <= values.keys():
                return text.format(**values)
        name = "generic_detected" if finding.detected else "generic_not_detected"
        return self.phrase(name, test=self.title(finding.id), id=finding.id, **_score(finding))

    def caveat(self, finding: Finding) -> str:
        """What to bear in mind with a finding; empty when there is nothing of its own."""
        message = self._findings.get(finding.explanation_key)
        if message is None or not message.caveat or not _fields(message.caveat) <= template_values(finding).keys():
            return ""
        return message.caveat.format(**template_values(finding))

    def inapplicable(self, finding: Finding) -> str:
        """Why a test could not say anything, as a clause."""
        code = finding.explanation_key.removeprefix("not_applicable.")
        known = self._not_applicable.get(code)
        return known or (harmless(finding.reason, 200) if finding.reason else self.phrase("no_reason"))

    def strength(self, log10_lr: float) -> str:
        """The verbal step of a weight of evidence."""
        step = sum(abs(log10_lr) >= limit for limit in _ENFSI_STEPS)
        return str(self._phrases["strength"][step])

    def place(self, region: Region, case: Case) -> str:
        """Where a region lies, in words."""
        column = _third(region.x_px + region.width_px / 2, case.file.width_px)
        row = _third(region.y_px + region.height_px / 2, case.file.height_px)
        return str(self._phrases["places"][3 * row + column])


def template_values(finding: Finding) -> dict[str, object]:
    """What a catalogue text may use: measurements, `score`, `region_count` and details made harmless."""
    values: dict[str, object] = {name: harmless(text) for name, text in finding.details.items()}
    values |= {m.name: Number(m.value) for m in finding.measurements}
    return values | {"score": Number(finding.score), "region_count": Number(len(finding.regions))}


def _score(finding: Finding) -> dict[str, object]:
    return {"score": Number(finding.score), "meaning": harmless(finding.score_meaning, 200).rstrip(".")}


@cache
def _fields(template: str) -> frozenset[str]:
    return frozenset(name for _, name, _, _ in string.Formatter().parse(template) if name)


def _third(position: float, length: int) -> int:
    return min(2, max(0, int(3 * position / length))) if length > 0 else 1


@cache
def load_catalogue(language: str) -> Catalogue:
    """The catalogue of a language: "en" or "ko"."""
    path = _FOLDER / f"messages_{language}.toml"
    return Catalogue(language, tomllib.loads(path.read_text(encoding="utf-8")))
