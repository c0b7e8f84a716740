"""What the sentences on one case are held against. All that is the same for every sentence is worked out once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from coordinator.case import Case, Finding
from coordinator.explanation.catalogue import Catalogue, template_values
from coordinator.explanation.lexicon import LEXICONS, stems
from coordinator.explanation.quantities import Quantity, numbers_in, quantities_of, verdict_quantities
from coordinator.explanation.untrusted import harmless

SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_DIGIT, _LETTER = re.compile(r"\d"), re.compile(r"[^\W\d_]")
_ECHO_WORDS = 3
_PROSE = frozenset(
    {"the", "a", "an", "is", "are", "was", "were", "be", "this", "that", "it", "you", "your", "and", "or", "of", "to"}
    | {"by", "as", "not", "no", "all", "with", "from", "has", "have", "for", "in", "on", "say", "write", "ignore"}
    | {"이", "그", "은", "는", "것은", "사진은", "이미지는", "입니다", "무시하고"}
)
"""Words that prose has and names of programs and cameras do not."""

Run = tuple[str, ...]
"""Words that follow one another, folded."""


def runs(text: str) -> list[Run]:
    """All runs of three words."""
    folded = [word.casefold() for word in WORD.findall(text)]
    return [tuple(folded[i : i + _ECHO_WORDS]) for i in range(len(folded) - _ECHO_WORDS + 1)]


class Grounds:
    """A case and the words of its report's language."""

    def __init__(self, case: Case, words: Catalogue) -> None:
        self.case, self.words, self.lexicon = case, words, LEXICONS[words.language]
        self.findings: Mapping[str, Finding] = {finding.id: finding for finding in case.findings()}
        self._about: dict[str, About] = {}

    def about(self, finding: Finding | None) -> About:
        """What is known of a finding; of the verdict for None."""
        key = finding.id if finding else ""
        if key not in self._about:
            self._about[key] = About(finding, self)
        return self._about[key]

    @cached_property
    def bare(self) -> Mapping[str, str]:
        """What the catalogue says of each finding when nothing from the file is put in."""
        return {finding.id: self.words.finding(_bare(finding)) for finding in self.findings.values()}

    @cached_property
    def titles(self) -> Mapping[str, str]:
        """What the tests are called, folded."""
        return {finding_id: self.words.title(finding_id).casefold() for finding_id in self.findings}

    @cached_property
    def prose_of_file(self) -> frozenset[Run]:
        """Runs of prose in text from the file, which may be an instruction that a model follows."""
        found: set[Run] = set()
        for finding in self.findings.values():
            if finding.details:
                own = set(runs(self.bare[finding.id]))
                read = {run for value in finding.details.values() for run in runs(harmless(value, 512))}
                found |= {run for run in read - own if _PROSE.intersection(run)}
        return frozenset(found)


class About:
    """One finding, or the verdict, as sentences may speak of it."""

    def __init__(self, finding: Finding | None, grounds: Grounds) -> None:
        self.finding, self._grounds = finding, grounds

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Our own texts on the subject and the details that the finding rests on."""
        words, case, finding = self._grounds.words, self._grounds.case, self.finding
        if finding is None:
            verdict = case.fusion.verdict
            told = words.phrase(f"verdict.{verdict}", strength="", probability="")
            return (told, words.phrase(f"plain_verdict.{verdict}"), case.file.format)
        details = tuple(harmless(text) for text in finding.details.values())
        names = " ".join(f"{m.name.replace('_', ' ')} {m.unit}" for m in finding.measurements)
        own = (words.finding(finding), words.caveat(finding), words.title(finding.id))
        return (*own, finding.id, finding.score_meaning, names, *details, case.file.format)

    @cached_property
    def folded(self) -> str:
        """Those texts in one, folded."""
        return " ".join(self.texts).casefold()

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Their words, folded."""
        return frozenset(word.casefold() for text in self.texts for word in WORD.findall(text))

    @cached_property
    def stems(self) -> frozenset[str]:
        """Stems of all that may be said of the subject."""
        known = self._grounds.words.texts_of(self.finding.id) if self.finding else ()
        return stems(" ".join((*known, *self.texts)))

    @cached_property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of the catalogue that say it, word for word and without anything from the file."""
        words = self._grounds.words
        if self.finding is None:
            return (words.phrase(f"plain_verdict.{self._grounds.case.fusion.verdict}"),)
        return (*SENTENCE_END.split(self._grounds.bare[self.finding.id]), words.caveat(_bare(self.finding)))

    @cached_property
    def names_with_digits(self) -> Sequence[str]:
        """Version numbers, "8x8" and the like, which are no measurements."""
        quoted: list[str] = []
        if self.finding is not None:
            texts = [str(value) for value in template_values(self.finding).values() if isinstance(value, str)]
            quoted = [text for text in texts if _DIGIT.search(text) and _LETTER.search(text)]
        return [*numbers_in(self.texts), *sorted(quoted, key=len, reverse=True)]

    @cached_property
    def quantities(self) -> Sequence[Quantity]:
        """Numbers that a sentence may state."""
        case = self._grounds.case
        return verdict_quantities(case) if self.finding is None else quantities_of(self.finding, case)


def _bare(finding: Finding) -> Finding:
    return replace(finding, details=dict.fromkeys(finding.details, "")) if finding.details else finding
