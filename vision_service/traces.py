"""Which physical trace each test reads, which tests speak of AI images, and the policy for provenance."""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, str] = {}
"""Trace by test id. A test that is not listed is a trace by itself."""

AI_TESTS: frozenset[str] = frozenset()
"""Tests whose trace a generator, and not only an edit, can leave; only these are fitted for "AI generated"."""

POLICY_TESTS: frozenset[str] = frozenset({"watermark.content_credentials", "watermark.metadata_source"})
"""Tests whose weights are set by `POLICY`, never fitted: who signed and what was declared is no statistic."""

POLICY: Mapping[str, tuple[float, float]] = {}
"""(log10 LR manipulated, log10 LR AI generated) by explanation key."""
