"""Numbers and identifiers in words that a reader without statistics understands."""

from __future__ import annotations

import math
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from coordinator.explanation.catalogue import load_catalogue
from coordinator.render.labels import Labels
from coordinator.render.schema import (
    Contribution,
    Finding,
    PictureReading,
    ReportDocument,
    SecondLook,
    Sentence,
    Tool,
    Weight,
)

T = TypeVar("T")
Hypothesis = Literal["authentic", "manipulated", "ai_generated"]

NOTHING_LOG10_LR = 0.05
"""Below this magnitude (a factor of 1.12) a weight is said to say nothing."""

_HANGUL = re.compile("[\u1100-\u11ff\uac00-\ud7a3]")


def printable(text: str) -> str:
    """Untrusted text on one line: control characters, text-direction overrides and the like become U+FFFD."""
    return "".join(c if c.isprintable() else " " if c in "\n\t\r" else "\N{REPLACEMENT CHARACTER}" for c in text)


def cleaned(value: T) -> T:
    """A JSON-like value with `printable` applied to every text in it, names included."""
    if isinstance(value, str):
        return printable(value)  # type: ignore[return-value]
    if isinstance(value, list):
        return [cleaned(item) for item in value]  # type: ignore[return-value]
    if isinstance(value, dict):
        return {printable(name): cleaned(item) for name, item in value.items()}  # type: ignore[return-value]
    return value


def percent(probability: float) -> str:
    """A probability as a percentage that never claims certainty."""
    if probability > 0.99:
        return "> 99 %"
    if probability < 0.01:
        return "< 1 %"
    return f"{probability * 100:.0f} %"


def number(value: float | None) -> str:
    """Four significant digits, without a trail of zeros."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def file_size(size_bytes: int) -> str:
    """Size in binary units."""
    if size_bytes < 1024:
        return f"{size_bytes} B"
    if size_bytes < 1024 * 1024:
        return f"{size_bytes / 1024:.0f} KiB"
    return f"{size_bytes / 1024 / 1024:.1f} MiB"


def seconds(duration_s: float) -> str:
    """A duration with a sensible number of digits."""
    return f"{duration_s * 1000:.0f} ms" if duration_s < 0.9995 else f"{duration_s:.1f} s"


def moment(timestamp: str) -> str:
    """A time of the JSON form, "2026-05-17T10:24:31.123Z", to the second."""
    return f"{timestamp[:19].replace('T', ' ')} UTC" if timestamp.endswith("Z") else timestamp


def title_of_test(finding_id: str, t: Labels) -> str:
    """What a test is called, as in the explanations: "frequency.double_jpeg" is "Double JPEG compression"."""
    title = load_catalogue(t.lang).title(finding_id) or finding_id
    return title[:1].upper() + title[1:]


def limit_of_test(finding_id: str, t: Labels) -> str:
    """When a test is blind or misled; empty for a test that this version does not know."""
    return _limits()[t.lang].get(finding_id, "")


@cache
def _limits() -> dict[str, dict[str, str]]:
    return tomllib.loads(Path(__file__).with_name("limits.toml").read_text("utf-8"))


def text_language(text: str) -> str:
    """Language tag of a text that is English or Korean."""
    return "ko" if _HANGUL.search(text) else "en"


def result_key(finding: Finding) -> str:
    """Label key of a test's result."""
    if finding["outcome"] != "tested":
        return f"result.{finding['outcome']}"
    return "result.found" if finding["detected"] else "result.not_found"


def tool_verdict_key(tool: Tool) -> str:
    """Label key of what a tool says as a whole."""
    return f"tool_verdict.{tool['verdict'] if tool['outcome'] == 'tested' else tool['outcome']}"


def likeliest(document: ReportDocument) -> str:
    """Name of the hypothesis with the largest posterior."""
    posterior = document["posterior"]
    by_name = {
        "authentic": posterior["authentic"],
        "manipulated": posterior["manipulated"],
        "ai_generated": posterior["ai_generated"],
    }
    return max(by_name, key=lambda name: by_name[name])


def unmoved(document: ReportDocument) -> bool:
    """Whether the posterior is the prior to within a percentage point, so that naming its largest would mislead."""
    prior, posterior = document["fusion"]["prior"], document["posterior"]
    names: tuple[Hypothesis, ...] = ("authentic", "manipulated", "ai_generated")
    return all(abs(prior[name] - posterior[name]) < 0.01 for name in names)


def probability_sentence(document: ReportDocument, t: Labels) -> str:
    """What the verdict's probability means."""
    verdict = document["verdict"]
    p = percent(document["probability"])
    if verdict == "uncertain":
        if unmoved(document):
            return t("probability.unmoved")
        return t("probability.uncertain", likeliest=t(f"verdict.{likeliest(document)}"), p=p)
    return t(f"probability.{verdict}", p=p, prior=percent(document["fusion"]["prior"][verdict]))


def weight_phrases(manipulated: Weight, ai_generated: Weight, t: Labels) -> list[str]:
    """Two log10 likelihood ratios as odds in words; one phrase when they say nothing."""
    if manipulated["cap"] == ai_generated["cap"] == 0:
        return [t("weight.uncalibrated")]
    found = []
    for name, weight in (("manipulated", manipulated), ("ai_generated", ai_generated)):
        value = weight["log10_lr"]
        if abs(value) >= NOTHING_LOG10_LR and math.isfinite(value):
            key = f"weight.{name}" if value > 0 else f"weight.not_{name}"
            found.append(t(key, n=_factor(10 ** min(abs(value), 12.0))))
    return found or [t("weight.nothing")]


def finding_phrases(finding: Finding, t: Labels) -> list[str]:
    """A finding's weight in words. Where it speaks for an edit or AI without a detection, that is said: a reader would
    take the two for a contradiction.
    """
    found = weight_phrases(finding["manipulated"], finding["ai_generated"], t)
    strongest = max(finding["manipulated"]["log10_lr"], finding["ai_generated"]["log10_lr"])
    if not finding["detected"] and strongest >= NOTHING_LOG10_LR:
        found.append(t("weight.below_threshold"))
    return found


def moves(part: Contribution) -> bool:
    """Whether a finding's part in the result is more than nothing."""
    return max(abs(part["log10_lr_manipulated"]), abs(part["log10_lr_ai_generated"])) >= NOTHING_LOG10_LR


def contribution_phrases(part: Contribution, t: Labels) -> list[str]:
    """What a finding did to the result, after grouping and caps."""
    cap = 1.0  # any: what moved the result is calibrated
    return weight_phrases(
        {"log10_lr": part["log10_lr_manipulated"], "cap": cap},
        {"log10_lr": part["log10_lr_ai_generated"], "cap": cap},
        t,
    )


def _factor(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{float(f'{value:.2g}'):,.0f}"


def readings_of(document: ReportDocument, finding_id: str) -> list[Sentence]:
    """Sentences of the tools' readings that speak of this finding alone."""
    return [
        sentence
        for reading in document["explanation"]["tool_readings"]
        for sentence in reading["sentences"]
        if sentence["finding_ids"] == [finding_id]
    ]


def probability_of(document: ReportDocument) -> str:
    """The verdict's probability for a headline; empty for "uncertain", which has none of its own."""
    return "" if document["verdict"] == "uncertain" else percent(document["probability"])


def authorship(document: ReportDocument, t: Labels) -> str:
    """Who wrote the explanation."""
    explanation, error = document["explanation"], document["explanation_error"]
    if error is not None:
        return t("author.failed", error=error["message"])
    if not explanation["model"]:
        return t("author.none")
    return t(
        "author.count",
        model=explanation["model_sentences_count"] - explanation["dropped_sentences_count"],
        name=explanation["model"].rstrip("/").rpartition("/")[2],
        dropped=explanation["dropped_sentences_count"],
    )


def opinion_lines(source: SecondLook | PictureReading, t: Labels) -> list[str]:
    """What a language model thinks, what it counts for, and why it is missing."""
    lines = []
    opinion, error = source["opinion"], source["error"]
    if opinion is not None:
        verdict, confidence = t(f"verdict.{opinion['verdict']}"), f"{100 * opinion['confidence']:.0f} %"
        counts = t("opinion.weight", weight=number(opinion["weight"])) if opinion["weight"] else t("opinion.no_weight")
        lines.append(f"{t('opinion', verdict=verdict, confidence=confidence)} {counts}")
    if error is not None:
        lines.append(t("opinion.failed", message=error["message"]))
    return lines
