"""Content Credentials: what the signed provenance of a file says, judged by validation codes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from vision_service.decoding.credentials import UnreadableCredentialsError
from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark import source_types
from vision_service.tools.watermark.c2pa_manifest import (
    Action,
    Manifest,
    ManifestStore,
    read_manifest_store,
)

_ID: Final = "watermark.content_credentials"
_DETAIL_LIMIT: Final = 512

CONTENT_ACTIONS: Final = frozenset(
    {
        "c2pa.edited", "c2pa.placed", "c2pa.removed", "c2pa.drawing", "c2pa.filtered", "c2pa.repackaged.content",
        "c2pa.unknown", "c2pa.redacted", "c2pa.addedText", "c2pa.adjustedContent", "c2pa.deleted", "c2pa.dubbed",
    }
)  # fmt: skip
"""Actions that can change what a picture shows (C2PA 2.2, 18.14)."""
ADJUSTING_ACTIONS: Final = frozenset(
    {
        "c2pa.opened", "c2pa.color_adjustments", "c2pa.adjustedColor", "c2pa.cropped", "c2pa.resized",
        "c2pa.resized.proportional", "c2pa.orientation", "c2pa.enhanced", "c2pa.watermarked", "c2pa.edited.metadata",
        "c2pa.changedSpeed",
    }
)  # fmt: skip
"""Actions that change tone, size or geometry but not what is shown."""
SCORES: Final = {
    "changed_after_signing": 3.0,
    "changed_after_signing_ai": 3.0,
    "ai": 3.0,
    "ai_composite": 2.0,
    "edited": 1.0,
}
_DETECTED: Final = frozenset(SCORES)


def classify(store: ManifestStore) -> str:
    """What the store says of the picture, strongest claim first.

    Returns:
        "changed_after_signing" or "changed_after_signing_ai" when hashes or signature do not fit the file; else "ai",
        "ai_composite", "edited" (content), "adjusted" (tone, size, geometry), "capture", "created" or "intact".
    """
    ai = _ai_claim(store)
    if store.changed:
        return "changed_after_signing_ai" if ai else "changed_after_signing"
    if ai:
        return ai
    actions = {action.name for manifest in store.manifests for action in manifest.actions}
    own = {action.name for action in store.manifests[0].actions}
    opened = "c2pa.opened" in actions
    if "c2pa.created" in own and not _captured(store) and not opened:
        return "created"
    if actions & CONTENT_ACTIONS:
        return "edited"
    if actions & ADJUSTING_ACTIONS:
        return "adjusted"
    if _captured(store):
        return "capture"
    return "created" if "c2pa.created" in own else "intact"


def _ai_claim(store: ManifestStore) -> str:
    claims = [(manifest, action) for manifest in store.manifests for action in manifest.actions]
    if any(_is_generation(manifest, action, store) for manifest, action in claims):
        return "ai"
    ai_terms = source_types.GENERATED | source_types.AI_COMPOSITE
    return "ai_composite" if any(action.source_type in ai_terms for _, action in claims) else ""


def _is_generation(manifest: Manifest, action: Action, store: ManifestStore) -> bool:
    """The whole picture was generated: the claim stands in its own line of descent, and where it began."""
    if action.source_type not in source_types.GENERATED or not manifest.is_parent_line:
        return False
    return action.name == "c2pa.created" or (manifest.depth == 0 and store.ingredients == 0)


def _captured(store: ManifestStore) -> bool:
    return any(
        action.source_type in source_types.CAPTURE
        for manifest in store.manifests
        if manifest.is_parent_line
        for action in manifest.actions
    )


def observe(store: ManifestStore, verified_at: datetime) -> Observation:
    """The observation for a store that was validated at `verified_at`."""
    claim = classify(store)
    signer = "_trusted" if store.trusted and not store.failures else "_unverified"
    variant = claim if store.changed else claim + signer
    actions = [action.name for manifest in store.manifests for action in manifest.actions]
    terms = [action.source_type for manifest in store.manifests for action in manifest.actions if action.source_type]
    details = {
        "signer": ", ".join(dict.fromkeys(filter(None, (store.common_name, store.issuer)))),
        "signed_at": store.signed_at,
        "verification_time": verified_at.isoformat(timespec="seconds"),
        "claim_generator": store.manifests[0].generator,
        "actions": ", ".join(actions),
        "source_types": ", ".join(dict.fromkeys(terms)),
        "validation_failures": ", ".join(store.failures),
        "ingredient_failures": ", ".join(store.ingredient_failures),
    }
    return Observation(
        Outcome.TESTED,
        score=SCORES.get(claim, 0.0),
        score_meaning="what the credentials say: 3 = changed after signing or made by AI, 2 = with parts made by AI, "
        "1 = content edited, 0 = none of these",
        detected=claim in _DETECTED,
        explanation_key=f"{_ID}.{variant}",
        measurements=(
            Measurement("manifests", float(len(store.manifests)), "count"),
            Measurement("ingredients", float(store.ingredients), "count"),
            Measurement("validation_failures", float(len(store.failures)), "count"),
            Measurement("signer_trusted", float(store.trusted), "1"),
        ),
        details={name: value[:_DETAIL_LIMIT] for name, value in details.items() if value},
    )


def _now() -> datetime:
    return datetime.now(UTC)


def make_test(trust_anchors_pem: str = "", clock: Callable[[], datetime] = _now) -> Test:
    """The test with a trust list of its own.

    Args:
        trust_anchors_pem: certificates of trusted issuers as PEM text; empty: every signer stays unverified. The
            integrity of a file is judged without it.
        clock: tells the time that is reported as the time of verification; the library itself judges by the system
            clock, so expired credentials become "unverified" with time.
    """

    def run(substrate: Substrate) -> Observation:
        try:
            store = read_manifest_store(substrate.codecs, substrate.container.format, trust_anchors_pem)
        except UnreadableCredentialsError as error:
            return not_applicable("unreadable_credentials", f"Content Credentials are present but unreadable ({error})")
        if store is None:
            return not_applicable(
                "no_content_credentials", "the file carries no Content Credentials, which is common and proves nothing"
            )
        return observe(store, clock())

    return Test(
        id=_ID,
        description="Validates Content Credentials offline and reads what they declare: AI, edits or capture.",
        source="C2PA Technical Specification 2.2; IPTC digital source type",
        run=run,
    )


TEST: Final = make_test()
