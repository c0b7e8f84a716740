"""One explanation from two authors: the model's sentences that hold, the rules' for all that they leave out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from coordinator.case import Case
from coordinator.explanation.answer import VERDICT_ID, Answer, Claim
from coordinator.explanation.catalogue import Catalogue
from coordinator.explanation.grounding import Section, check_claim
from coordinator.explanation.grounds import Grounds
from coordinator.explanation.text import Dropped, Explanation, Sentence, ToolReading

MAX_SUMMARY = 4
_DROPPED_CHARACTERS = 400
_NO_ROOM = "the summary has no room for it"


@dataclass
class Survey:
    """The check of all that a model wrote on one case."""

    grounds: Grounds
    dropped: list[Dropped] = field(default_factory=list)
    written: int = 0
    _said: set[str] = field(default_factory=set)

    def survivors(self, claims: Iterable[Claim], section: Section, tool: str | None = None) -> list[Sentence]:
        """The sentences that hold; the others are noted."""
        kept = []
        for claim in claims:
            for checked in check_claim(claim, section, tool, self.grounds):
                self.written += 1
                reason = checked.reason
                if not reason and self._repeats(checked.text):
                    reason = "it was said before"
                if reason:
                    self.dropped.append(Dropped(checked.text[:_DROPPED_CHARACTERS], reason))
                    continue
                self._said.add(_folded(checked.text))
                cited = () if checked.finding_id == VERDICT_ID else (checked.finding_id,)
                kept.append(Sentence(checked.text, "model", cited))
        return kept

    def _repeats(self, text: str) -> bool:
        folded = _folded(text)
        return any(said.startswith(folded) or folded.startswith(said) for said in self._said)


def _folded(text: str) -> str:
    return text.casefold().rstrip(".!? ")


def compose(
    rules: Explanation, answer: Answer, case: Case, words: Catalogue, *, model: str, prompt_version: str
) -> Explanation:
    """Merges an answer into the rule-written explanation.

    The summary's first sentence, the verdict in measured words, and its last, on what could be tested, are always the
    rules'. A detected finding that no sentence of the model speaks of keeps its rule-written sentence.
    """
    survey = Survey(Grounds(case, words))
    summary = survey.survivors(answer.summary, "summary")
    readings = {tool: survey.survivors([claim], "reading", tool) for tool, claim in answer.readings.items()}
    uncertainties = survey.survivors(answer.uncertainties, "uncertainty")
    merged = _summary(rules.summary, summary)
    survey.dropped += [Dropped(s.text[:_DROPPED_CHARACTERS], _NO_ROOM) for s in summary if s not in merged]
    return Explanation(
        summary=merged,
        readings=tuple(ToolReading(r.tool, _reading(r, readings.get(r.tool, []))) for r in rules.readings),
        uncertainties=(*uncertainties, *rules.uncertainties),
        model=model,
        prompt_version=prompt_version,
        model_sentences=survey.written,
        dropped=tuple(survey.dropped),
    )


def _summary(rules: Sequence[Sentence], model: Sequence[Sentence]) -> tuple[Sentence, ...]:
    first, middle, last = rules[0], rules[1:-1], rules[-1]
    waiting = list(model)
    kept: list[Sentence] = []
    replaced: set[tuple[str, ...]] = set()
    for sentence in middle:
        same = next((m for m in waiting if sentence.finding_ids and m.finding_ids == sentence.finding_ids), None)
        if same is not None and sentence.finding_ids not in replaced:
            waiting.remove(same)
            replaced.add(sentence.finding_ids)
        kept.append(same or sentence)
    return (first, *[*kept, *waiting][: MAX_SUMMARY - 2], last)


def _reading(rules: ToolReading, model: Sequence[Sentence]) -> tuple[Sentence, ...]:
    spoken_of = _cited(model)
    rest = [s for s in rules.sentences if not s.finding_ids or not set(s.finding_ids) <= spoken_of]
    return (*model, *rest)


def _cited(sentences: Iterable[Sentence]) -> set[str]:
    return {finding_id for sentence in sentences for finding_id in sentence.finding_ids}
