"""Metadata that declares how a picture was made: IPTC source type, records of generators, China's AIGC label."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark import source_types
from vision_service.tools.watermark.signatures import match_rules, metadata_fields, packaged_rules
from vision_service.tools.watermark.xmp import Xmp, XmpError, parse_xmp

DETAIL_LIMIT: Final = 512

_ID: Final = "watermark.metadata_source"
_SOURCE_TYPE_FIELDS: Final = ("XMP Iptc4xmpExt:DigitalSourceType", "XMP Iptc4xmpExt:digitalSourceType")
_LABEL_FIELDS: Final = (
    "XMP TC260:AIGC", "XMP aigc:Info", "text AIGC", "text UserComment", "EXIF ImageDescription", "text Comment",
)  # fmt: skip
_LABEL_NAMES: Final = frozenset({"ContentProducer", "ProduceID", "ContentPropagator", "PropagateID"})


@dataclass(frozen=True)
class Declaration:
    """One declaration of origin in the metadata."""

    kind: str
    """"generator", "ai_edit", "capture" or "edited"."""
    name: str
    field: str
    value: str


def read_xmp_safely(packet: bytes) -> tuple[Xmp, str]:
    """Properties of an XMP packet and, when it could not be read, why."""
    try:
        return parse_xmp(packet), ""
    except XmpError as error:
        return Xmp(), str(error)


def declarations(fields: Mapping[str, str]) -> list[Declaration]:
    """All declarations of origin, those of generators first.

    Args:
        fields: metadata by "<place> <name>" (see `signatures.metadata_fields`).
    """
    found = [*_source_types(fields), *_labels(fields)]
    for match in match_rules((r for r in packaged_rules() if r.kind != "editor"), fields):
        found.append(Declaration(match.rule.kind, match.rule.name, match.field, match.value))
    order = ("generator", "ai_edit", "edited", "capture")
    return sorted(found, key=lambda d: order.index(d.kind))


def _source_types(fields: Mapping[str, str]) -> Iterable[Declaration]:
    for name in _SOURCE_TYPE_FIELDS:
        for value in fields.get(name, "").splitlines():
            term = source_types.source_type(value)
            for kind, terms in (
                ("generator", source_types.GENERATED),
                ("ai_edit", source_types.AI_COMPOSITE),
                ("edited", source_types.EDITED),
                ("capture", source_types.CAPTURE),
            ):
                if term in terms:
                    yield Declaration(kind, f"IPTC {term}", name, value)


def _labels(fields: Mapping[str, str]) -> Iterable[Declaration]:
    """GB 45438-2025: Label 1 = generated, 2 = possibly, 3 = suspected to be generated; only 1 is a declaration."""
    for name in _LABEL_FIELDS:
        label = _aigc_label(fields.get(name, ""))
        if label == "1":
            yield Declaration("generator", "AIGC label (GB 45438-2025)", name, fields[name])


def _aigc_label(text: str) -> str:
    text = text.strip()
    if not text.startswith("{") or len(text) > 16_384:
        return ""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    if isinstance(document, dict) and isinstance(document.get("AIGC"), dict):
        document = document["AIGC"]
    if not isinstance(document, dict) or not _LABEL_NAMES & document.keys():
        return ""
    return str(document.get("Label", "")).strip()


def run(substrate: Substrate) -> Observation:
    """Looks for declarations of AI origin.

    Metadata can be written, copied and removed by anyone: a declaration is strong but not conclusive, its absence says
    nothing. Score: 2 for a generator, 1 for AI editing of a part, 0 for neither.
    """
    container = substrate.container
    xmp, fault = read_xmp_safely(container.xmp)
    fields = metadata_fields(container, xmp)
    if not fields:
        if fault:
            return not_applicable("unreadable_metadata", f"the XMP packet cannot be read ({fault[:200]})")
        return not_applicable("no_metadata", "the file carries no metadata, which is common and proves nothing")
    found = declarations(fields)
    strongest = found[0] if found else None
    kind = strongest.kind if strongest else ""
    variant = {"generator": "declared_ai", "ai_edit": "declared_ai_edit", "capture": "declared_capture"}.get(kind)
    if kind == "edited":
        variant = "declared_edit"
    details = {"declared_by": strongest.name, "field": strongest.field, "value": strongest.value} if strongest else {}
    return Observation(
        Outcome.TESTED,
        score={"generator": 2.0, "ai_edit": 1.0}.get(kind, 0.0),
        score_meaning="declared origin: 2 = made by a generative model, 1 = a part made by one, 0 = neither",
        detected=kind in {"generator", "ai_edit"},
        explanation_key=f"{_ID}.{variant or 'not_detected'}",
        measurements=(
            Measurement("metadata_fields", float(len(fields)), "count"),
            Measurement("declarations", float(len(found)), "count"),
        ),
        details={name: value[:DETAIL_LIMIT] for name, value in details.items()},
    )


TEST: Final = Test(
    id=_ID,
    description="Looks for metadata in which a generator or an AI editor declares itself.",
    source="IPTC Photo Metadata 2025.1, digital source type; GB 45438-2025; records of known generators",
    run=run,
)
