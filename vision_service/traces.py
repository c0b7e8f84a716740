"""Which physical trace each test reads, which tests speak of AI images, and the policy for provenance."""

from __future__ import annotations

from collections.abc import Mapping

GROUPS: Mapping[str, str] = {
    "frequency.foreign_grid": "jpeg_history",
    "frequency.double_jpeg": "jpeg_history",
    "frequency.nonaligned_double_jpeg": "jpeg_history",
    "frequency.jpeg_ghosts": "jpeg_history",
    "frequency.resampling": "resampling",
    "frequency.upsampling_peaks": "upsampling",
    "noise.level_map": "sensor_noise",
    "noise.low_noise_regions": "sensor_noise",
    "noise.residual_statistics": "sensor_noise",
    "noise.prnu": "sensor_noise",
    "noise.cfa": "sensor_lattice",
    "spatial.copy_move": "copy_move",
    "watermark.content_credentials": "provenance",
    "watermark.metadata_source": "provenance",
    "watermark.dwt_dct": "known_watermark",
    "watermark.dwt_dct_svd": "known_watermark",
}
"""Trace by test id. A test that is not listed is a trace by itself."""

CAMERA_TESTS: frozenset[str] = frozenset({"noise.cfa"})
"""Tests whose negative scores are a finding in favour of a camera, which may weigh more than silence."""

AI_TESTS: frozenset[str] = CAMERA_TESTS | {"frequency.upsampling_peaks"}
"""Tests whose trace a generator, and not only an edit, can leave; or that find what a generator
lacks; only these are fitted for "AI generated"."""

POLICY_TESTS: frozenset[str] = frozenset(
    {
        "watermark.content_credentials",
        "watermark.metadata_source",
        "watermark.metadata_software",
        "watermark.closed_schemes",
        "watermark.dwt_dct",
        "watermark.dwt_dct_svd",
    }
)
"""Tests whose weights are set by `POLICY`, never fitted: who signed and what was declared is no statistic, and a named
editor is no evidence. What the table does not list weighs nothing."""

_CREDENTIALS = "watermark.content_credentials"
_METADATA = "watermark.metadata_source"

POLICY: Mapping[str, tuple[float, float]] = {
    # A signature or hash that does not fit the file is a fact; only a server that re-encodes and keeps the manifest
    # does the same without intent.
    f"{_CREDENTIALS}.changed_after_signing": (3.0, 0.0),
    f"{_CREDENTIALS}.changed_after_signing_ai": (1.0, 3.0),
    # Nobody gains by declaring a photo AI-made, so even an unverified signer weighs much.
    f"{_CREDENTIALS}.ai_trusted": (0.0, 4.0),
    f"{_CREDENTIALS}.ai_unverified": (0.0, 3.0),
    f"{_CREDENTIALS}.ai_composite_trusted": (3.0, 0.5),
    f"{_CREDENTIALS}.ai_composite_unverified": (2.5, 0.5),
    f"{_CREDENTIALS}.edited_trusted": (2.5, 0.0),
    f"{_CREDENTIALS}.edited_unverified": (1.5, 0.0),
    f"{_CREDENTIALS}.adjusted_trusted": (0.0, -0.5),
    f"{_CREDENTIALS}.adjusted_unverified": (0.0, 0.0),
    # Anyone can sign "camera": only a signer on the trust list clears a picture.
    f"{_CREDENTIALS}.capture_trusted": (-3.0, -3.0),
    f"{_CREDENTIALS}.capture_unverified": (-0.2, -0.2),
    f"{_CREDENTIALS}.created_trusted": (0.0, 0.0),
    f"{_CREDENTIALS}.created_unverified": (0.0, 0.0),
    f"{_CREDENTIALS}.intact_trusted": (-1.0, -0.5),
    f"{_CREDENTIALS}.intact_unverified": (0.0, 0.0),
    f"{_METADATA}.declared_ai": (0.0, 3.0),
    f"{_METADATA}.declared_ai_edit": (2.5, 0.5),
    f"{_METADATA}.declared_edit": (0.5, 0.0),
    f"{_METADATA}.declared_capture": (0.0, 0.0),
    # Found at 1e-4 false alarms per picture (a-contrario), so 3 is below what the null model supports.
    "watermark.dwt_dct.detected": (0.0, 3.0),
    "watermark.dwt_dct_svd.detected": (0.0, 3.0),
}
"""(log10 LR manipulated, log10 LR AI generated) by explanation key."""
