"""The prompt: constant instructions with an example, which prefix caching serves, and a table of the evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from coordinator.case import Case, Finding
from coordinator.explanation.catalogue import Catalogue, number, percent
from coordinator.explanation.untrusted import harmless
from coordinator.llm_client import Message

PROMPT_VERSION = "v1"
"""Folder of the prompt texts; part of every report. A changed text is a new version."""

MAX_MEASUREMENTS = 6
"""Measurements shown of a detected finding."""
MAX_DETAILS = 3
"""Untrusted texts shown of a finding; each at most 60 characters."""
_DETAIL_LIMIT = 60
LANGUAGE_NAMES = {"en": "English", "ko": "Korean"}


@dataclass(frozen=True)
class Prompt:
    """One conversation for one case."""

    messages: tuple[Message, ...]
    version: str = PROMPT_VERSION


@cache
def prefix(language: str) -> tuple[Message, ...]:
    """The messages that all conversations in a language share: the instructions and one example."""
    folder = Path(__file__).parent / "prompts" / PROMPT_VERSION
    parts = (
        ("system", "system.txt"),
        ("user", f"example_{language}.user.txt"),
        ("assistant", f"example_{language}.assistant.txt"),
    )
    return tuple(Message(role, (folder / name).read_text(encoding="utf-8").strip()) for role, name in parts)


def make_prompt(case: Case, words: Catalogue, *, brief: bool = False) -> Prompt:
    """The conversation about a case.

    The file's name is left out: it says nothing about the picture and is the easiest place for an instruction.

    Args:
        case: the evidence.
        words: catalogue of the report's language, whose sentence for each finding is shown.
        brief: leaves out the tests that found nothing, for a model whose context is too short for the whole table.
    """
    verdict = words.phrase(f"plain_verdict.{case.fusion.verdict}")
    lines = [
        f"VERDICT (probability {percent(case.fusion.probability)}): {verdict}",
        f"FILE: {_file(case)}",
        "",
        *_table(case, words, brief=brief),
        "",
        f"Write the JSON explanation in {LANGUAGE_NAMES[words.language]}.",
    ]
    return Prompt((*prefix(words.language), Message("user", "\n".join(lines))))


def _file(case: Case) -> str:
    file = case.file
    quality = f", JPEG quality {file.jpeg_quality}" if file.jpeg_quality else ""
    return f"{harmless(file.format, 12)}, {file.width_px} x {file.height_px} px{quality}"


def _table(case: Case, words: Catalogue, *, brief: bool) -> Iterable[str]:
    yield "FINDINGS:"
    shown = [f for f in case.findings() if f.tested and (f.detected or not brief)]
    if not shown:
        yield "none"
    for finding in shown:
        yield evidence_row(finding, case, words)
    idle = [f.id for f in case.findings() if not f.tested]
    if idle and not brief:
        yield "NOT TESTED: " + ", ".join(idle)


def evidence_row(finding: Finding, case: Case, words: Catalogue) -> str:
    """One line of the table: what a test found. Text from the file is cut and stands between « and »."""
    numbers = [f"score {number(finding.score)}"]
    if finding.detected:
        numbers += _numbers(finding)
        if finding.regions:
            numbers.append(f"place: {words.place(finding.regions[0], case)}")
    outcome = "DETECTED" if finding.detected else "NOT DETECTED"
    texts = [
        f"{harmless(n, 24)} «{harmless(t, _DETAIL_LIMIT)}»" for n, t in list(finding.details.items())[:MAX_DETAILS]
    ]
    from_file = f"; from the file: {', '.join(texts)}" if texts else ""
    return f"[{finding.id}] {outcome} ({'; '.join(numbers)}{from_file}): {words.finding(finding)}"


def _numbers(finding: Finding) -> Iterable[str]:
    if finding.log10_nfa is not None:
        yield f"log10_nfa {number(finding.log10_nfa)}"
    yield f"weight edited {_signed(finding.log10_lr_manipulated)}, AI {_signed(finding.log10_lr_ai_generated)}"
    yield from (f"{m.name} {number(m.value)} {m.unit}" for m in finding.measurements[:MAX_MEASUREMENTS])


def _signed(log10_lr: float) -> str:
    return f"{log10_lr:+.2f}"
