"""C2PA manifest stores read offline: validation codes, signer, actions and source types."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from vision_service.decoding.codecs import Codecs
from vision_service.decoding.credentials import UnreadableCredentialsError
from vision_service.tools.watermark.source_types import source_type

CHANGED_CODES: Final = frozenset(
    {
        "assertion.dataHash.mismatch",
        "assertion.boxesHash.mismatch",
        "assertion.boxesHash.unknownBox",
        "assertion.bmffHash.mismatch",
        "assertion.collectionHash.mismatch",
        "assertion.hashedURI.mismatch",
        "assertion.missing",
        "assertion.undeclared",
        "claimSignature.mismatch",
    }
)
"""Failures that mean: the file or its credentials were changed after signing (C2PA 2.2, 15.2)."""

_SIGNER_PREFIXES: Final = ("signingCredential.", "timeStamp.", "claimSignature.outsideValidity")
_MAX_ANCESTORS: Final = 64


@dataclass(frozen=True)
class Action:
    """One entry of a c2pa.actions assertion."""

    name: str
    """"c2pa.created", "c2pa.color_adjustments", ..."""
    source_type: str
    """IPTC term, empty when absent or unknown."""


@dataclass(frozen=True)
class Manifest:
    """What one manifest of the store claims."""

    generator: str
    actions: tuple[Action, ...]
    depth: int
    """0 for the active manifest, more for manifests of its ingredients."""
    is_parent_line: bool
    """True when only "parentOf" links lead here: the picture itself at an earlier time, not a part placed in it."""


@dataclass(frozen=True)
class ManifestStore:
    """A store as validated now, without network."""

    manifests: tuple[Manifest, ...]
    """The active manifest first."""
    ingredients: int
    """Ingredients of the active manifest, with or without manifests of their own."""
    failures: tuple[str, ...]
    """Validation failure codes of the active manifest."""
    ingredient_failures: tuple[str, ...]
    trusted: bool
    """The signer chains to one of the given trust anchors."""
    issuer: str
    common_name: str
    signed_at: str
    """Time of the time stamp, ISO 8601; empty when there is none."""

    @property
    def changed(self) -> bool:
        """The file or its credentials were changed after signing."""
        return any(code in CHANGED_CODES for code in self.failures)

    @property
    def other_failures(self) -> tuple[str, ...]:
        """Failures that concern neither content nor signer: malformed claims, missing ingredients."""
        return tuple(c for c in self.failures if c not in CHANGED_CODES and not c.startswith(_SIGNER_PREFIXES))


def read_manifest_store(codecs: Codecs, container_format: str, trust_anchors_pem: str = "") -> ManifestStore | None:
    """Reads and validates the manifest store embedded in a file. Never uses the network.

    Args:
        codecs: of the file.
        container_format: `Container.format`.
        trust_anchors_pem: certificates of trusted issuers, PEM; empty: no signer is trusted.

    Returns:
        None when the file has no embedded store.

    Raises:
        UnreadableCredentialsError: there is one, or a reference to a remote one, but it cannot be read.
    """
    text = codecs.credentials(container_format, trust_anchors_pem)
    if text is None:
        return None
    try:
        return _store(json.loads(text))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UnreadableCredentialsError(f"unexpected structure: {error!r}"[:300]) from error


def _store(document: Mapping[str, Any]) -> ManifestStore:
    active = document["manifests"][document["active_manifest"]]
    results = document.get("validation_results") or {}
    own = results.get("activeManifest")
    if own is None:
        failures = [status["code"] for status in document.get("validation_status") or ()]
    else:
        failures = [status["code"] for status in own.get("failure") or ()]
    deltas = (delta.get("validationDeltas") or {} for delta in results.get("ingredientDeltas") or ())
    signature = active.get("signature_info") or {}
    return ManifestStore(
        manifests=tuple(_walk(document)),
        ingredients=len(active.get("ingredients") or ()),
        failures=tuple(failures),
        ingredient_failures=tuple(status["code"] for delta in deltas for status in delta.get("failure") or ()),
        trusted=document.get("validation_state") == "Trusted",
        issuer=str(signature.get("issuer") or ""),
        common_name=str(signature.get("common_name") or ""),
        signed_at=str(signature.get("time") or ""),
    )


def _walk(document: Mapping[str, Any]) -> Iterator[Manifest]:
    """The active manifest and those of its ingredients, breadth first; each once, by the most direct way."""
    manifests = document["manifests"]
    queue: list[tuple[str, int, bool]] = [(document["active_manifest"], 0, True)]
    seen: set[str] = set()
    while queue and len(seen) < _MAX_ANCESTORS:
        label, depth, parent_line = queue.pop(0)
        if label in seen or label not in manifests:
            continue
        seen.add(label)
        manifest = manifests[label]
        yield Manifest(_generator(manifest), tuple(_actions(manifest)), depth, parent_line)
        for ingredient in manifest.get("ingredients") or ():
            is_parent = ingredient.get("relationship") == "parentOf"
            queue.append((str(ingredient.get("active_manifest") or ""), depth + 1, parent_line and is_parent))


def _generator(manifest: Mapping[str, Any]) -> str:
    info = manifest.get("claim_generator_info")
    if isinstance(info, list) and info and isinstance(info[0], dict):
        return f"{info[0].get('name', '')} {info[0].get('version', '')}".strip()
    return str(manifest.get("claim_generator") or "")


def _actions(manifest: Mapping[str, Any]) -> Iterator[Action]:
    for assertion in manifest.get("assertions") or ():
        if not str(assertion.get("label", "")).startswith("c2pa.actions"):
            continue
        for entry in (assertion.get("data") or {}).get("actions") or ():
            yield Action(str(entry.get("action", "")), source_type(str(entry.get("digitalSourceType") or "")))
