"""Numbers in a sentence, and the quantities of the evidence that they may stand for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from coordinator.case import Case, Finding
from coordinator.explanation.lexicon import Lexicon

_NUMBER = re.compile(r"(?<![\w.])([-+−]?\d[\d,]*(?:\.\d+)?)(?:[eE]([-+]?\d+))?(\s*(?:%|percent\b|퍼센트))?")
_WORD = re.compile(r"[A-Za-z]+|[가-힣]+|\d+")
_VAGUE = frozenset({"picture", "image", "of", "the", "in", "strongest", "largest", "percent"})
"""Words in names of measurements that name nothing by themselves."""
_UNITS = {
    "px": "px", "pixel": "px", "pixels": "px", "픽셀": "px", "db": "dB", "bit": "bit", "bits": "bit", "비트": "bit",
    "grey": "grey levels", "gray": "grey levels",
}  # fmt: skip
_REACH_WORDS = 5
"""Words after a number among which its quantity is looked for, when none is named before it."""
_RELATIVE_TOLERANCE = 0.1
_LINKS = frozenset(
    {"is", "are", "was", "were", "of", "at", "equals", "about", "approximately", "around", "a", "an", "the", "to", "by"}
)
"""Words that stand between a number and its name without keeping them apart."""


@dataclass(frozen=True)
class Quantity:
    """A number that the evidence holds."""

    words: frozenset[str]
    """Words by which a sentence names it, in lower case."""
    value: float
    unit: str


@dataclass(frozen=True)
class Mention:
    """A number in a sentence."""

    text: str
    value: float
    decimals: int
    percent: bool
    start: int
    end: int


def quantities_of(finding: Finding, case: Case) -> list[Quantity]:
    """Everything measured in a finding, and the file's facts that any sentence may state."""
    found = [
        Quantity(_names("score 점수"), finding.score, "1"),
        Quantity(
            _names("weight edited manipulated editing likelihood ratio 가중치"), finding.log10_lr_manipulated, "1"
        ),
        Quantity(_names("weight ai generated likelihood ratio 가중치"), finding.log10_lr_ai_generated, "1"),
        Quantity(_names("region regions place places area areas 영역 곳"), float(len(finding.regions)), "count"),
        *_file_quantities(case),
    ]
    if finding.log10_nfa is not None:
        found.append(Quantity(_names("nfa false alarms alarm 오경보"), finding.log10_nfa, "1"))
    if finding.p_value is not None:
        found.append(Quantity(_names("p value"), finding.p_value, "1"))
    found += [Quantity(_measurement_words(m.name), m.value, m.unit) for m in finding.measurements]
    for region in finding.regions:
        found += [
            Quantity(_names("width wide region size 너비"), region.width_px, "px"),
            Quantity(_names("height high tall region size 높이"), region.height_px, "px"),
            Quantity(_names("x left position at region"), region.x_px, "px"),
            Quantity(_names("y top position at region"), region.y_px, "px"),
        ]
    return found


def verdict_quantities(case: Case) -> list[Quantity]:
    """What a sentence about the verdict may state."""
    return [Quantity(_names("probability probable 확률"), case.fusion.probability, "1"), *_file_quantities(case)]


def _file_quantities(case: Case) -> list[Quantity]:
    file = case.file
    sizes = [
        Quantity(_names("dimensions width wide 너비"), file.width_px, "px"),
        Quantity(_names("dimensions height high 높이"), file.height_px, "px"),
    ]
    quality = Quantity(_names("quality 품질"), file.jpeg_quality, "1")
    return [*sizes, quality] if file.jpeg_quality else sizes


def _measurement_words(name: str) -> frozenset[str]:
    words = _names(name.replace("_", " "))
    return words - _VAGUE or words


def _names(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


def mentions(sentence: str, lexicon: Lexicon) -> list[Mention]:
    """Numbers of a sentence, in digits or words."""
    found = [_mention(match) for match in _NUMBER.finditer(sentence)]
    for match in _WORD.finditer(sentence):
        value = lexicon.numerals.get(match.group().lower())
        if value is not None:
            found.append(Mention(match.group(), float(value), 0, False, match.start(), match.end()))
    return sorted(found, key=lambda mention: mention.start)


def _mention(match: re.Match[str]) -> Mention:
    digits = match.group(1).replace(",", "").replace("−", "-")
    exponent = int(match.group(2) or 0)
    value = float(digits) * 10.0 ** max(-300, min(exponent, 300))
    decimals = len(digits.partition(".")[2]) - exponent
    return Mention(match.group().strip(), value, decimals, bool(match.group(3)), match.start(), match.end())


def unfounded(sentence: str, quantities: Sequence[Quantity], lexicon: Lexicon) -> str:
    """Why a number of a sentence is not borne out; empty when all are.

    A number counts for the quantity whose name stands nearest in its clause, between the number before it and the one
    after it; a name before goes first. It must equal that quantity when both are rounded alike.
    """
    found = mentions(sentence, lexicon)
    for index, mention in enumerate(found):
        previous = found[index - 1].end if index else 0
        following = found[index + 1].start if index + 1 < len(found) else len(sentence)
        named = _named(sentence, mention, previous, following, quantities, lexicon)
        if not named:
            return f"the number {mention.text} stands for no quantity of the finding that the sentence cites"
        if not any(_equal(mention, quantity) for quantity in named):
            return f"the number {mention.text} is not the value of the quantity that it is given for"
        unit = _unit_after(sentence, mention)
        if unit and not any(quantity.unit == unit and _equal(mention, quantity) for quantity in named):
            return f"the number {mention.text} has the unit of another quantity"
    return ""


def _named(
    sentence: str, mention: Mention, previous: int, following: int, quantities: Sequence[Quantity], lexicon: Lexicon
) -> list[Quantity]:
    before = _telling(lexicon.clause_break.split(sentence[previous : mention.start])[-1])[::-1]
    after = _telling(lexicon.clause_break.split(sentence[mention.end : following])[0])[:_REACH_WORDS]
    left, right = _distance(before, quantities), _distance(after, quantities)
    if left is None and right is None:
        return []
    if right is None or (left is not None and left <= right):
        return _nearest(before, quantities)
    return _nearest(after, quantities)


def _telling(text: str) -> list[str]:
    return [word for word in (match.lower() for match in _WORD.findall(text)) if word not in _LINKS]


def _distance(words: Sequence[str], quantities: Sequence[Quantity]) -> int | None:
    return next((i for i, word in enumerate(words) if any(_names_it(word, q) for q in quantities)), None)


def _nearest(words: Sequence[str], quantities: Sequence[Quantity]) -> list[Quantity]:
    """Quantities that the nearest naming word names; of them, those that most of the words name."""
    place = _distance(words, quantities)
    named = [] if place is None else [quantity for quantity in quantities if _names_it(words[place], quantity)]
    overlap = [sum(_names_it(word, quantity) for word in words) for quantity in named]
    return [quantity for quantity, count in zip(named, overlap, strict=True) if count == max(overlap)]


def _names_it(word: str, quantity: Quantity) -> bool:
    if word in quantity.words:
        return True
    if not word.isascii():  # Korean particles cling to the noun
        return any(word.startswith(name) for name in quantity.words if not name.isascii())
    return word.endswith("s") and word[:-1] in quantity.words


def _unit_after(sentence: str, mention: Mention) -> str:
    words = _WORD.findall(sentence[mention.end : mention.end + 12])
    return _UNITS.get(words[0].lower(), "") if words else ""


def _equal(mention: Mention, quantity: Quantity) -> bool:
    if mention.percent:
        if quantity.unit not in {"1", "%"}:
            return False
        scale = 100.0 if quantity.unit == "1" else 1.0
        return _rounds_to(quantity.value * scale, mention)
    return _rounds_to(quantity.value, mention)


def _rounds_to(value: float, mention: Mention) -> bool:
    step = 10.0 ** -max(-300, min(mention.decimals, 300))
    difference = abs(value - mention.value)
    if difference > 0.5 * step * (1 + 1e-9):
        return False
    return difference <= _RELATIVE_TOLERANCE * abs(value) + 1e-12


def numbers_in(texts: Iterable[str]) -> frozenset[str]:
    """Tokens such as "8x8" that stand in our own texts as names, not as numbers."""
    return frozenset(token.lower() for text in texts for token in re.findall(r"\b\d+\s?[x×]\s?\d+\b", text))
