"""Metadata that names editing software: what the file went through, no sign of manipulation by itself."""

from __future__ import annotations

from typing import Final

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark.metadata_source import DETAIL_LIMIT, read_xmp_safely
from vision_service.tools.watermark.signatures import match_rules, metadata_fields, packaged_rules
from vision_service.tools.watermark.xmp import Xmp

_ID: Final = "watermark.metadata_software"


def run(substrate: Substrate) -> Observation:
    """Looks for the names of editors, converters and managers, the XMP edit history and raw-converter settings.

    Most photos that people publish passed through such software, so this is context, not evidence of manipulation.
    Score: number of saved steps in the history, at least 1 when software is named; 0 for none.
    """
    container = substrate.container
    xmp, _ = read_xmp_safely(container.xmp)
    fields = metadata_fields(container, xmp)
    if not fields:
        return not_applicable("no_metadata", "the file carries no metadata, which is common and proves nothing")
    matches = match_rules((r for r in packaged_rules() if r.kind == "editor"), fields)
    saves = sum(
        action.lower() in {"saved", "derived", "converted"} for action in xmp.properties.get("stEvt:action", ())
    )
    raw_settings = sum(name.startswith("crs:") for name in xmp.properties)
    named = bool(matches or saves)
    details = {
        "software": "; ".join(dict.fromkeys(m.value.splitlines()[0] for m in matches)),
        "history": " > ".join(_history(xmp)),
        "document_ancestors": str(len(xmp.properties.get("photoshop:DocumentAncestors", ())) or ""),
    }
    return Observation(
        Outcome.TESTED,
        score=float(max(saves, 1)) if named else 0.0,
        score_meaning="saved steps that the metadata tell of, at least 1 when editing software is named; not evidence "
        "of manipulation",
        explanation_key=f"{_ID}.{'editor_named' if named else 'not_detected'}",
        measurements=(
            Measurement("history_saves", float(saves), "count"),
            Measurement("raw_converter_settings", float(raw_settings), "count"),
        ),
        details={name: value[:DETAIL_LIMIT] for name, value in details.items() if value},
    )


def _history(xmp: Xmp) -> list[str]:
    actions = xmp.properties.get("stEvt:action", ())
    agents = xmp.properties.get("stEvt:softwareAgent", ())
    if len(actions) == len(agents):
        return [f"{action} ({agent})" for action, agent in zip(actions, agents, strict=True)]
    return list(actions)


TEST: Final = Test(
    id=_ID,
    description="Names the software that the file went through, from its metadata.",
    source="EXIF 2.32; XMP specification part 2, media management",
    run=run,
)
