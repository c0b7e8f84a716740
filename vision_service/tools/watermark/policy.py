"""Weights of provenance that are set by policy instead of fitted, with their reasons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).with_name("policy.json")


def load_policy() -> dict[str, dict[str, Any]]:
    """Entries {"manipulated": log10 LR, "ai_generated": log10 LR, "why": sentence} by explanation key.

    They fit the "policy" member of a calibration file as they are.
    """
    document: dict[str, dict[str, dict[str, Any]]] = json.loads(FILE.read_text(encoding="utf-8"))
    return document["policy"]
