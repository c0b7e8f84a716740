"""Is a sentence of the language model borne out by the findings? What is not is dropped, with the reason.

Every text names one finding, or the verdict; its sentences are held against that alone. The checks are lexical and
strict: they are meant to let no wrong number, tool, name, place, detection or verdict through, and pay for that with
sound sentences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from coordinator.case import Case, Finding, Region
from coordinator.explanation.answer import VERDICT_ID, Claim
from coordinator.explanation.catalogue import percent
from coordinator.explanation.claims import verdict_reason
from coordinator.explanation.grounds import SENTENCE_END, WORD, About, Grounds, runs
from coordinator.explanation.lexicon import Lexicon, stems
from coordinator.explanation.quantities import mentions, unfounded
from coordinator.explanation.untrusted import harmless

Section = Literal["summary", "reading", "uncertainty"]

_FINDING_ID = re.compile(r"\b(?:[a-z]+)\.[a-z][a-z0-9]*_?[a-z0-9_]*\b")
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


@dataclass(frozen=True)
class Checked:
    """A sentence and why it was dropped; empty when it stands."""

    text: str
    finding_id: str
    reason: str


@dataclass(frozen=True)
class _Subject:
    """What a sentence is held against."""

    grounds: Grounds
    about: About
    section: Section

    @property
    def case(self) -> Case:
        """The evidence and the verdict."""
        return self.grounds.case

    @property
    def finding(self) -> Finding | None:
        """What is cited; None: the verdict."""
        return self.about.finding

    @property
    def lexicon(self) -> Lexicon:
        """Words that count in the report's language."""
        return self.grounds.lexicon


def check_claim(claim: Claim, section: Section, tool: str | None, grounds: Grounds) -> list[Checked]:
    """Holds each sentence of a text against what it cites.

    Args:
        claim: the model's text.
        section: where it stands.
        tool: the tool whose reading it is; None elsewhere.
        grounds: the evidence, in the report's language.
    """
    finding = grounds.findings.get(claim.finding_id)
    fault = _citation_fault(claim, finding, section, tool)
    subject = _Subject(grounds, grounds.about(finding), section)
    return [
        Checked(text, claim.finding_id, fault or _first_fault(text, subject))
        for text in SENTENCE_END.split(claim.text)
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
    ours = subject.about.sentences
    if subject.finding is None:
        return text.strip() in ours
    stripped = text.strip().rstrip(".")
    return any(our.rstrip(".") == stripped or our.startswith((f"{stripped};", f"{stripped},")) for our in ours)


def _foreign_matter(text: str, subject: _Subject) -> str:
    """Words that only other tests use, and words of the verdict that nothing could check."""
    if subject.finding is None:
        loose = stems(text) - subject.about.stems - subject.lexicon.verdict_words
        return f"{sorted(loose)[0]!r} is more than the verdict says" if loose else ""
    stripped = text.strip().rstrip(".")
    if any(stripped in bare for other, bare in subject.grounds.bare.items() if other != subject.finding.id):
        return "it is what another finding says"
    foreign = (stems(text) & subject.lexicon.trace_words) - subject.about.stems
    return f"{sorted(foreign)[0]!r} is the matter of another test" if foreign else ""


def _form(text: str, subject: _Subject) -> str:
    if harmless(text, 400) != " ".join(text.replace('"', "'").split()) or _BAD_MARKS.search(text):
        return "it holds marks that a sentence of a report does not have"
    if len(text.split()) < _MIN_WORDS or not re.search(r"[.!?][\"')]*$", text):
        return "it is no finished sentence"
    said = runs(text)
    if len(set(said)) < len(said):
        return "it repeats itself"
    hangul = 0 if text.isascii() else sum("가" <= character <= "힣" for character in text)
    if (subject.grounds.words.language == "ko") != (hangul > 0) or (hangul == 0 and _foreign(text)):
        return "it is not in the language of the report"
    return ""


def _foreign(text: str) -> bool:
    return not text.isascii() and any(character.isalpha() and ord(character) > 0x24F for character in text)


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
        known = finding is not None and (finding.tool == tool or any(pattern.search(t) for t in subject.about.texts))
        if pattern.search(text) and not known:
            return f"it speaks of {tool} without citing a finding of that tool"
    folded = text.casefold()
    for other, title in subject.grounds.titles.items():
        if (
            len(title) > 6
            and title in folded
            and other != (finding.id if finding else "")
            and title not in subject.about.folded
        ):
            return f"it names the test for {title}, which it does not cite"
    for match in lexicon.tool_noun.finditer(text):
        word = match.group(1).casefold()
        if word not in lexicon.stop_words and word not in lexicon.tool_words and word not in subject.about.vocabulary:
            return f"{match.group()!r} is no tool of this report"
    return ""


def _names(text: str, subject: _Subject) -> str:
    """Names that are not in what the sentence cites."""
    folded_texts = subject.about.folded
    for match in _KNOWN_NAMES.finditer(text):
        if match.group().casefold() not in folded_texts:
            return f"the name {match.group()!r} is not in the finding that it cites"
    for position, word in enumerate(WORD.findall(text)):
        named = any(character.isupper() for character in (word if position else word[1:]))
        folded = word.casefold()
        if named and folded not in subject.about.vocabulary and folded not in _COMMON_NAMES and word not in {"AI", "I"}:
            return f"the name {word!r} is not in the finding that it cites"
    shown = subject.lexicon.content.search(text)
    if shown and shown.group().casefold() not in folded_texts:
        return f"it speaks of {shown.group()!r}, and no test looks at what the picture shows"
    return ""


def _echo(text: str, subject: _Subject) -> str:
    """Runs of words of prose from untrusted text, which may be an instruction that the model followed."""
    repeated = not subject.grounds.prose_of_file.isdisjoint(runs(text))
    return "it repeats text that was read from the file" if repeated else ""


def _numbers(text: str, subject: _Subject) -> str:
    for name in subject.about.names_with_digits:
        text = re.sub(re.escape(name), " ", text, flags=re.IGNORECASE)
    if subject.finding is None and percent(subject.case.fusion.probability).startswith(">"):
        text = re.sub(r"(?:>|above|over|more than|at least)\s*99\s*%|99\s*% 이상", " ", text)
    return unfounded(text, subject.about.quantities, subject.lexicon)


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
    own = subject.about.stems
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
