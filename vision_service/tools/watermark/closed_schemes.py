"""Invisible watermarks that only their owners can read: said to be not testable, never to be absent."""

from __future__ import annotations

from typing import Final

from vision_service.domain import Observation, Test, not_applicable
from vision_service.substrate import Substrate

SCHEMES: Final = (
    "SynthID",
    "Stable Signature",
    "Tree-Ring",
    "TrustMark",
    "Watermark Anything",
    "Digimarc",
)
"""Schemes whose key, model or decoder weights are not part of this service."""


def run(substrate: Substrate) -> Observation:
    """Always not applicable: without the scheme's key or decoder neither presence nor absence can be tested."""
    return not_applicable(
        "closed_scheme",
        f"{', '.join(SCHEMES[:-1])} and {SCHEMES[-1]} marks need keys or decoders that are not available here, so "
        "neither their presence nor their absence can be tested",
    )


TEST: Final = Test(
    id="watermark.closed_schemes",
    description="Names the invisible watermarks that cannot be tested here.",
    source="none: keys or decoders of these schemes are held by their owners or not distributed with this service",
    run=run,
)
