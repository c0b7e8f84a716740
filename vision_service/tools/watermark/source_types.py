"""IPTC digital source types, grouped by what they say of a picture (IPTC NewsCodes, digitalsourcetype)."""

from __future__ import annotations

from typing import Final

GENERATED: Final = frozenset({"trainedAlgorithmicMedia"})
"""Made by a model that was trained on samples."""
AI_COMPOSITE: Final = frozenset({"compositeWithTrainedAlgorithmicMedia", "compositeSynthetic"})
"""A picture with parts that such a model made."""
CAPTURE: Final = frozenset(
    {
        "digitalCapture",
        "computationalCapture",
        "multiFrameComputationalCapture",
        "negativeFilm",
        "positiveFilm",
        "print",
    }
)
"""Taken by a camera or scanner."""
EDITED: Final = frozenset({"humanEdits", "minorHumanEdits", "algorithmicallyEnhanced", "composite", "compositeCapture"})
"""Changed after capture."""
ARTWORK: Final = frozenset(
    {
        "algorithmicMedia",
        "digitalArt",
        "digitalCreation",
        "dataDrivenMedia",
        "virtualRecording",
        "screenCapture",
        "softwareImage",
    }
)
"""Made by people or programs without a trained model."""
KNOWN: Final = GENERATED | AI_COMPOSITE | CAPTURE | EDITED | ARTWORK


def source_type(value: str) -> str:
    """The term of a digital source type given as a URI, a qualified name or the bare term; empty when unknown.

    "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" -> "trainedAlgorithmicMedia".
    """
    term = value.strip().rstrip("/").replace(":", "/").rpartition("/")[2]
    return next((known for known in KNOWN if known.lower() == term.lower()), "")
