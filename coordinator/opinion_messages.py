"""Opinions of language models in the contract's messages."""

from __future__ import annotations

from coordinator.convert import TOOL_NUMBERS, VERDICT_NUMBERS, to_dropped, to_sentences
from coordinator.explanation.picture_reading import PictureReading
from coordinator.explanation.second_look import SecondLook
from coordinator.fusion import Opinion, OpinionWeight
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import report_pb2
from serving.status import to_status

_KINDS = {
    "semantic": report_pb2.INCONSISTENCY_KIND_SEMANTIC,
    "physical": report_pb2.INCONSISTENCY_KIND_PHYSICAL,
}


def to_second_look(looked: SecondLook, weight: OpinionWeight) -> report_pb2.SecondLook:
    """The transcript and what came out."""
    return report_pb2.SecondLook(
        occasion=looked.occasion,
        turns=[
            report_pb2.SecondLookTurn(
                tool=TOOL_NUMBERS.get(spoken.side.tool, finding_pb2.TOOL_UNSPECIFIED),
                side=VERDICT_NUMBERS[spoken.side.hypothesis],
                round=spoken.round,
                sentences=to_sentences(spoken.sentences),
            )
            for spoken in looked.spoken
        ],
        opinion=_opinion(looked.opinion, weight),
        reasons=to_sentences(looked.reasons),
        model=looked.model,
        prompt_version=looked.prompt_version,
        model_sentences_count=looked.model_sentences,
        dropped_sentences=to_dropped(looked.dropped),
        error=to_status(looked.error) if looked.error else None,
    )


def to_picture_reading(read: PictureReading, weight: OpinionWeight) -> report_pb2.PictureReading:
    """What a model saw."""
    return report_pb2.PictureReading(
        depicted=read.depicted,
        inconsistencies=[report_pb2.Inconsistency(kind=_KINDS[i.kind], text=i.text) for i in read.inconsistencies],
        texts_in_picture=read.texts,
        opinion=_opinion(read.opinion, weight),
        model=read.model,
        prompt_version=read.prompt_version,
        width_px=read.width_px,
        height_px=read.height_px,
        error=to_status(read.error) if read.error else None,
    )


def _opinion(opinion: Opinion | None, weight: OpinionWeight) -> report_pb2.Opinion | None:
    if opinion is None:
        return None
    return report_pb2.Opinion(
        verdict=VERDICT_NUMBERS[opinion.verdict],
        confidence=opinion.confidence,
        weight=weight.weight,
        weight_provenance=weight.provenance,
    )
