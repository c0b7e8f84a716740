"""Types of the JSON form of a report; docs/report-json.md explains the fields, docs/report-schema.json checks them."""

from __future__ import annotations

from typing import Literal, TypedDict

SCHEMA_VERSION = "1.1"
"""Raised in its second part when fields are added, in its first when one changes or goes."""

VerdictName = Literal["authentic", "manipulated", "ai_generated", "uncertain"]
OutcomeName = Literal["tested", "not_applicable", "failed"]


class Posterior(TypedDict):
    """Probabilities of the three hypotheses."""

    authentic: float
    manipulated: float
    ai_generated: float


class Weight(TypedDict):
    """A log10 likelihood ratio against "authentic" and its cap."""

    log10_lr: float
    cap: float


class Measurement(TypedDict):
    """One number behind a score; `value` is null where it is not finite."""

    name: str
    value: float | None
    unit: str


class Region(TypedDict):
    """A rectangle in stored pixels."""

    x_px: int
    y_px: int
    width_px: int
    height_px: int


class HeatMap(TypedDict):
    """A map over the picture; its pixels are in `file`, beside the report, when there is an output folder."""

    file: str | None
    cell_px: int
    meaning: str
    significant: bool


class Finding(TypedDict):
    """The result of one test. `score` and what follows from it are null unless the test ran."""

    id: str
    outcome: OutcomeName
    reason: str
    detected: bool
    score: float | None
    score_meaning: str
    log10_nfa: float | None
    p_value: float | None
    manipulated: Weight
    ai_generated: Weight
    explanation_key: str
    measurements: list[Measurement]
    regions: list[Region]
    heat_map: HeatMap | None
    details: dict[str, str]
    duration_s: float


class Error(TypedDict):
    """Why there is no report, or no part of one."""

    reason: str
    message: str
    advice: str


class Tool(TypedDict):
    """What one tool says."""

    tool: str
    version: str
    outcome: OutcomeName
    error: Error | None
    verdict: VerdictName
    manipulated: Weight
    ai_generated: Weight
    findings: list[Finding]
    duration_s: float


class Contribution(TypedDict):
    """One finding's part in the result, after grouping and caps."""

    finding_id: str
    log10_lr_manipulated: float
    log10_lr_ai_generated: float


class Fusion(TypedDict):
    """How the verdict was reached."""

    prior: Posterior
    log10_lr_manipulated: float
    log10_lr_ai_generated: float
    contributions: list[Contribution]
    calibration_id: str
    rule: str


class Sentence(TypedDict):
    """One sentence and who wrote it."""

    text: str
    author: Literal["rules", "model"]
    finding_ids: list[str]


class ToolReading(TypedDict):
    """What one tool's findings mean."""

    tool: str
    sentences: list[Sentence]


class DroppedSentence(TypedDict):
    """A sentence of the model that the findings did not bear out."""

    text: str
    reason: str


class Explanation(TypedDict):
    """Why the verdict is what it is."""

    summary: list[Sentence]
    tool_readings: list[ToolReading]
    uncertainties: list[Sentence]
    model: str
    prompt_version: str
    model_sentences_count: int
    dropped_sentences_count: int
    dropped_sentences: list[DroppedSentence]


class Opinion(TypedDict):
    """What a language model thinks; counts with `weight` and, at 0, for nothing."""

    verdict: VerdictName
    confidence: float
    weight: float
    weight_provenance: str


class SecondLookTurn(TypedDict):
    """One turn of a second look."""

    tool: str
    side: VerdictName
    round: int
    sentences: list[Sentence]


class SecondLook(TypedDict):
    """What experts of tools that disagree said to each other."""

    occasion: str
    turns: list[SecondLookTurn]
    opinion: Opinion | None
    reasons: list[Sentence]
    model: str
    prompt_version: str
    model_sentences_count: int
    dropped_sentences: list[DroppedSentence]
    error: Error | None


class Inconsistency(TypedDict):
    """Something that a vision-language model finds not to fit."""

    kind: Literal["semantic", "physical"]
    text: str


class PictureReading(TypedDict):
    """What a vision-language model says that it sees; unchecked."""

    depicted: str
    inconsistencies: list[Inconsistency]
    texts_in_picture: list[str]
    opinion: Opinion | None
    model: str
    prompt_version: str
    width_px: int
    height_px: int
    error: Error | None


class FromCache(TypedDict):
    """That the report was made for an earlier request."""

    serve_time: str
    request_id: str


class ImageFacts(TypedDict):
    """What the file is. `jpeg_quality` is null where it is no JPEG."""

    sha256: str
    size_bytes: int
    format: str
    width_px: int
    height_px: int
    mode: str
    bit_depth: int
    frame_count: int
    orientation: int
    jpeg_quality: int | None
    stratum: str
    metadata: dict[str, str]


class Timing(TypedDict):
    """Wall time of one phase."""

    phase: str
    duration_s: float


class ReportDocument(TypedDict):
    """The report on one picture."""

    schema_version: str
    status: Literal["ok"]
    path: str
    file_name: str
    verdict: VerdictName
    probability: float
    posterior: Posterior
    image: ImageFacts
    fusion: Fusion
    tools: list[Tool]
    fused_heat_map: HeatMap | None
    explanation: Explanation
    explanation_error: Error | None
    warnings: list[str]
    timings: list[Timing]
    create_time: str
    service_version: str
    request_id: str
    second_look: SecondLook | None
    picture_reading: PictureReading | None
    from_cache: FromCache | None
    html_file: str | None


class ErrorDocument(TypedDict):
    """A picture that has no report."""

    schema_version: str
    status: Literal["error"]
    path: str
    error: Error


Document = ReportDocument | ErrorDocument
