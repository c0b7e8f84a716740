"""Is a sentence of the language model borne out by the findings? What is not is dropped, with the reason.

Every text names one finding, or the verdict; its sentences are held against that alone. The checks are lexical and
strict: they are meant to let no wrong number, tool, name, place, detection or verdict through, and pay for that with
sound sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from coordinator.case import Case, Finding, Region
from coordinator.explanation.answer import VERDICT_ID, Claim
from coordinator.explanation.catalogue import Catalogue, percent, template_values
from coordinator.explanation.claims import verdict_reason
from coordinator.explanation.lexicon import LEXICONS, Lexicon, stems
from coordinator.explanation.quantities import mentions, numbers_in, quantities_of, unfounded, verdict_quantities
from coordinator.explanation.untrusted import harmless

Section = Literal["summary", "reading", "uncertainty"]

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')]*\s+")
_FINDING_ID = re.compile(r"\b(?:[a-z]+)\.[a-z][a-z0-9]*_?[a-z0-9_]*\b")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_BAD_MARKS = re.compile(r"https?:|www\.|[{}<>«»|\\`]|\[|\]|\bJSON\b|\bas an AI\b", re.IGNORECASE)
_COMMON_NAMES = frozenset(
    {
        "jpeg",
        "jpg",
        "png",
        "webp",
        "tiff",
        "heif",
        "avif",
        "exif",
        "xmp",
        "iptc",
        "c2pa",
        "dct",
        "nfa",
        "snr",
        "rgb",
        "the",
        "a",
        "an",
        "in",
        "it",
        "this",
    }
)
_KNOWN_NAMES = re.compile(
    r"\b(?:photoshop|gimp|lightroom|adobe|affinity|snapseed|canva|facetune|pixlr|midjourney|dall-?e|openai|chatgpt|"
    r"stable diffusion|firefly|flux|gemini|google|imagen|sora|synthid|ideogram|leonardo|comfyui|automatic1111|canon|"
    r"nikon|sony|apple|iphone|samsung|pixel phone|error level|ela|prnu|noiseprint|trufor|benford|fourier|wavelet|"
    r"neural network|machine learning|deep learning|blockchain|fbi|reuters)\b|포토샵|미드저니|구글|삼성|라이트룸",
    re.IGNORECASE,
)
_MIN_WORDS = 3
_ECHO_WORDS = 3
_PROSE = frozenset(
    {"the", "a", "an", "is", "are", "was", "were", "be", "this", "that", "it", "you", "your", "and", "or", "of", "to"}
    | {"by", "as", "not", "no", "all", "with", "from", "has", "have", "for", "in", "on", "say", "write", "ignore"}
    | {"이", "그", "은", "는", "것은", "사진은", "이미지는", "입니다", "무시하고"}
)
"""Words that prose has and names of programs and cameras do not."""


@dataclass(frozen=True)
class Checked:
    """A sentence and why it was dropped; empty when it stands."""

    text: str
    finding_id: str
    reason: str


@dataclass(frozen=True)
class _Subject:
    """What a sentence is held against."""

    case: Case
    finding: Finding | None
    """None: the verdict."""
    section: Section
    words: Catalogue
    lexicon: Lexicon

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Our own texts on the subject and the details that the finding rests on."""
        if self.finding is None:
            verdict = self.case.fusion.verdict
            told = self.words.phrase(f"verdict.{verdict}", strength="", probability="")
            return (told, self.words.phrase(f"plain_verdict.{verdict}"), self.case.file.format)
        finding = self.finding
        details = tuple(harmless(text) for text in finding.details.values())
        names = " ".join(f"{m.name.replace('_', ' ')} {m.unit}" for m in finding.measurements)
        own = (self.words.finding(finding), self.words.caveat(finding), self.words.title(finding.id))
        return (*own, finding.id, finding.score_meaning, names, *details, self.case.file.format)

    @cached_property
    def vocabulary(self) -> frozenset[str]:
        """Words of those texts, folded."""
        return frozenset(word.casefold() for text in self.texts for word in _WORD.findall(text))


def check_claim(claim: Claim, section: Section, tool: str | None, case: Case, words: Catalogue) -> list[Checked]:
    """Holds each sentence of a text against what it cites.

    Args:
        claim: the model's text.
        section: where it stands.
        tool: the tool whose reading it is; None elsewhere.
        case: the evidence.
        words: catalogue of the report's language.
    """
    finding = next((f for f in case.findings() if f.id == claim.finding_id), None)
    fault = _citation_fault(claim, finding, section, tool)
    subject = _Subject(case, finding, section, words, LEXICONS[words.language])
    return [
        Checked(text, claim.finding_id, fault or _first_fault(text, subject))
        for text in _SENTENCE_END.split(claim.text)
        if text.strip()
    ]


def _citation_fault(claim: Claim, finding: Finding | None, section: Section, tool: str | None) -> str:
    if finding is None:
        if claim.finding_id != VERDICT_ID:
            return f"it cites {harmless(claim.finding_id, 60)!r}, which is no finding of this picture"
        return "a tool's reading must cite one of its findings" if section == "reading" else ""
    if not finding.tested:
        return f"it cites {finding.id}, which was not tested"
    if tool is not None and finding.tool != tool:
        return f"it cites {finding.id} in the reading of the tool {tool}"
    return ""


def _first_fault(text: str, subject: _Subject) -> str:
    if _is_ours(text, subject):
        return ""
    for check in _CHECKS:
        reason = check(text, subject)
        if reason:
            return reason
    return ""


def _is_ours(text: str, subject: _Subject) -> bool:
    """A sentence of the catalogue or its main clause, word for word and without anything from the file in it."""
    if subject.finding is None:
        return text.strip() == subject.words.phrase(f"plain_verdict.{subject.case.fusion.verdict}")
    bare = _without_details(subject.finding)
    ours = (*_SENTENCE_END.split(subject.words.finding(bare)), subject.words.caveat(bare))
    stripped = text.strip().rstrip(".")
    return any(our.rstrip(".") == stripped or our.startswith((f"{stripped};", f"{stripped},")) for our in ours)


def _foreign_matter(text: str, subject: _Subject) -> str:
    """Words that only other tests use, and words of the verdict that nothing could check."""
    if subject.finding is None:
        loose = stems(text) - stems(" ".join(subject.texts)) - subject.lexicon.verdict_words
        return f"{sorted(loose)[0]!r} is more than the verdict says" if loose else ""
    stripped = text.strip().rstrip(".")
    others = (f for f in subject.case.findings() if f is not subject.finding)
    if any(stripped in subject.words.finding(_without_details(other)) for other in others):
        return "it is what another finding says"
    own = stems(" ".join((*subject.words.texts_of(subject.finding.id), *subject.texts)))
    foreign = (stems(text) & subject.lexicon.trace_words) - own
    return f"{sorted(foreign)[0]!r} is the matter of another test" if foreign else ""


def _form(text: str, subject: _Subject) -> str:
    if harmless(text, 400) != " ".join(text.replace('"', "'").split()) or _BAD_MARKS.search(text):
        return "it holds marks that a sentence of a report does not have"
    if len(text.split()) < _MIN_WORDS or not re.search(r"[.!?][\"')]*$", text):
        return "it is no finished sentence"
    runs = _runs(text)
    if len(set(runs)) < len(runs):
        return "it repeats itself"
    hangul = sum("가" <= character <= "힣" for character in text)
    if (subject.words.language == "ko") != (hangul > 0) or (hangul == 0 and _foreign(text)):
        return "it is not in the language of the report"
    return ""


def _foreign(text: str) -> bool:
    return any(character.isalpha() and ord(character) > 0x24F for character in text)


def _overclaim(text: str, subject: _Subject) -> str:
    match = subject.lexicon.overclaim.search(text)
    return f"{match.group()!r} claims a certainty that no finding gives" if match else ""


def _tools(text: str, subject: _Subject) -> str:
    """Ids, tools and tests that are not those of the cited finding."""
    finding, lexicon = subject.finding, subject.lexicon
    ids = {match for match in _FINDING_ID.findall(text) if match.partition(".")[0] in lexicon.tool_words}
    if ids - ({finding.id} if finding else set()):
        return f"it names {sorted(ids)[0]}, which it does not cite"
    for tool, pattern in lexicon.tool_words.items():
        known = finding is not None and (finding.tool == tool or any(pattern.search(t) for t in subject.texts))
        if pattern.search(text) and not known:
            return f"it speaks of {tool} without citing a finding of that tool"
    for other in subject.case.findings():
        title = subject.words.title(other.id).casefold()
        foreign = other is not finding and len(title) > 6 and not any(title in t.casefold() for t in subject.texts)
        if foreign and title in text.casefold():
            return f"it names the test for {title}, which it does not cite"
    for match in lexicon.tool_noun.finditer(text):
        word = match.group(1).casefold()
        if word not in lexicon.stop_words and word not in lexicon.tool_words and word not in subject.vocabulary:
            return f"{match.group()!r} is no tool of this report"
    return ""


def _names(text: str, subject: _Subject) -> str:
    """Names that are not in what the sentence cites."""
    folded_texts = " ".join(subject.texts).casefold()
    for match in _KNOWN_NAMES.finditer(text):
        if match.group().casefold() not in folded_texts:
            return f"the name {match.group()!r} is not in the finding that it cites"
    for position, word in enumerate(_WORD.findall(text)):
        named = any(character.isupper() for character in (word if position else word[1:]))
        folded = word.casefold()
        if named and folded not in subject.vocabulary and folded not in _COMMON_NAMES and word not in {"AI", "I"}:
            return f"the name {word!r} is not in the finding that it cites"
    shown = subject.lexicon.content.search(text)
    if shown and shown.group().casefold() not in folded_texts:
        return f"it speaks of {shown.group()!r}, and no test looks at what the picture shows"
    return ""


def _echo(text: str, subject: _Subject) -> str:
    """Runs of words of prose from untrusted text, which may be an instruction that the model followed."""
    spoken = _ngrams(text)
    for finding in subject.case.findings():
        own = _ngrams(subject.words.finding(_without_details(finding)))
        for value in finding.details.values():
            shared = (_ngrams(harmless(value, 512)) - own) & spoken
            if any(_PROSE.intersection(run) for run in shared):
                return "it repeats text that was read from the file"
    return ""


def _without_details(finding: Finding) -> Finding:
    return replace(finding, details=dict.fromkeys(finding.details, ""))


def _runs(text: str) -> list[tuple[str, ...]]:
    folded = [word.casefold() for word in _WORD.findall(text)]
    return [tuple(folded[i : i + _ECHO_WORDS]) for i in range(len(folded) - _ECHO_WORDS + 1)]


def _ngrams(text: str) -> frozenset[tuple[str, ...]]:
    return frozenset(_runs(text))


def _numbers(text: str, subject: _Subject) -> str:
    for token in numbers_in(subject.texts):
        text = re.sub(re.escape(token), " ", text, flags=re.IGNORECASE)
    for value in _quoted_numbers(subject):
        text = text.replace(value, " ")
    if subject.finding is None:
        shown = verdict_quantities(subject.case)
        if percent(subject.case.fusion.probability).startswith(">"):
            text = re.sub(r"(?:>|above|over|more than|at least)\s*99\s*%|99\s*% 이상", " ", text)
        return unfounded(text, shown, subject.lexicon)
    return unfounded(text, quantities_of(subject.finding, subject.case), subject.lexicon)


def _quoted_numbers(subject: _Subject) -> Iterable[str]:
    """Version numbers and the like: tokens with a digit in the details that the finding rests on, with their name."""
    if subject.finding is None:
        return ()
    texts = [str(v) for v in template_values(subject.finding).values() if isinstance(v, str)]
    return sorted(
        (t for t in texts if any(c.isdigit() for c in t) and any(c.isalpha() for c in t)), key=len, reverse=True
    )


def _verdict(text: str, subject: _Subject) -> str:
    return verdict_reason(text, subject.finding, subject.section, subject.case.fusion.verdict, subject.lexicon)


def _detection(text: str, subject: _Subject) -> str:
    """Claims to have seen something, against what the test says."""
    lexicon, finding = subject.lexicon, subject.finding
    for clause in lexicon.clause_break.split(text):
        seen = lexicon.detection.search(clause)
        negations = len(lexicon.negation.findall(clause))
        if negations > 1:
            return "its negations cannot be told apart"
        if finding is None:
            if seen and not lexicon.support.search(clause) and not lexicon.open_question.search(clause):
                return f"{seen.group()!r} claims a finding without citing it"
            continue
        absent = lexicon.absence.search(clause) or (seen and negations)
        if absent and not finding.detected and not finding.explanation_key.endswith(".not_detected"):
            return f"it says that {finding.id} saw nothing, which did see something"
        if finding.detected and (absent or negations):
            return f"it says that {finding.id} saw nothing, which did find its trace"
        if not finding.detected and seen and not negations and not lexicon.absence.search(clause):
            return f"{seen.group()!r} claims a detection, and {finding.id} found no trace"
    return ""


def _bearing(text: str, subject: _Subject) -> str:
    """Sentences that say what their finding does not. A number that was found to be right is bearing enough."""
    finding, lexicon = subject.finding, subject.lexicon
    if finding is None or mentions(text, lexicon):
        return ""
    own = stems(" ".join((*subject.words.texts_of(finding.id), *subject.texts)))
    said = stems(text) - lexicon.verdict_words
    if not said & own:
        return f"it says nothing of {finding.id}"
    if finding.detected:
        return ""
    negated = lexicon.negation.search(text) is not None
    if finding.explanation_key.endswith(".not_detected"):
        seen = lexicon.detection.search(text) or lexicon.trace.search(text) or (said & own & lexicon.trace_words)
        return "" if negated and seen else f"it says more than that {finding.id} found no trace"
    return f"it says what {finding.id} does not" if negated or said - own else ""


def _place(text: str, subject: _Subject) -> str:
    """Words of place, against the regions of the finding."""
    named = [place for place, pattern in subject.lexicon.places.items() if pattern.search(text)]
    if not named:
        return ""
    regions = subject.finding.regions if subject.finding else ()
    for place in named:
        if not any(_lies(region, place, subject.case) for region in regions[:1]):
            return f"it places the trace ({place}) where the finding has no region"
    return ""


def _lies(region: Region, place: str, case: Case) -> bool:
    x = (region.x_px + region.width_px / 2) / max(case.file.width_px, 1)
    y = (region.y_px + region.height_px / 2) / max(case.file.height_px, 1)
    third_x, third_y = (int(min(2, 3 * v)) for v in (x, y))
    return {
        "upper": third_y == 0,
        "lower": third_y == 2,
        "left": third_x == 0,
        "right": third_x == 2,
        "centre": third_x == 1 and third_y == 1,
        "corner": third_x != 1 and third_y != 1,
    }[place]


_CHECKS: Sequence[Callable[[str, _Subject], str]] = (
    _form, _overclaim, _echo, _tools, _names, _numbers, _verdict, _detection, _place, _foreign_matter, _bearing,
)  # fmt: skip
