"""Which physical trace each test reads, which tests speak of AI images, and the policy for provenance."""

from __future__ import annotations

from collections.abc import Mapping

from vision_service.tools.watermark.policy import load_policy

GROUPS: Mapping[str, str] = {
    "frequency.foreign_grid": "jpeg_history",
    "frequency.double_jpeg": "jpeg_history",
    "frequency.double_jpeg_shifted": "jpeg_history",
    "frequency.jpeg_ghost": "jpeg_history",
    "frequency.ela": "jpeg_history",
    "spatial.grid_inconsistency": "jpeg_history",
    "spatial.fingerprint": "processing_history",
    "frequency.resampling": "resampling",
    "frequency.upsampling_peaks": "upsampling",
    "noise.synthesis": "upsampling",
    "noise.level_map": "sensor_noise",
    "noise.low_noise_regions": "sensor_noise",
    "noise.residual_statistics": "sensor_noise",
    "noise.prnu": "sensor_noise",
    "noise.cfa": "sensor_lattice",
    "spatial.copy_move": "copy_move",
    "spatial.blur_inconsistency": "blur",
    "watermark.metadata_consistency": "capture_metadata",
    "watermark.metadata_software": "capture_metadata",
    "watermark.closed_schemes": "known_watermark",
    "watermark.content_credentials": "provenance",
    "watermark.metadata_source": "provenance",
    "watermark.dwt_dct": "known_watermark",
    "watermark.dwt_dct_svd": "known_watermark",
    "watermark.rivagan": "known_watermark",
}
"""Trace by test id. A test that is not listed is a trace by itself."""

CAMERA_TESTS: frozenset[str] = frozenset({"noise.cfa"})
"""Tests whose negative scores are a finding in favour of a camera, which may weigh more than silence."""

NO_CREDIT_TESTS: frozenset[str] = frozenset({"spatial.fingerprint"})
"""Tests whose low scores weigh nothing: a network that maps histories is silent on most forgeries that were saved
again; its silence credited like that of the other tests made ranking and calibration worse (docs/learned.md)."""

AI_TESTS: frozenset[str] = CAMERA_TESTS | {"frequency.upsampling_peaks", "noise.synthesis"}
"""Tests whose trace a generator, and not only an edit, can leave; or that find what a generator
lacks; only these are fitted for "AI generated"."""

TRAINED_ON: Mapping[str, frozenset[str]] = {
    "noise.synthesis": frozenset({"metadata-extractor-images"}),
    "spatial.fingerprint": frozenset({"metadata-extractor-images"}),
}
"""Sources of the photographs from which a test's weights were made. There it counts as not applicable when curves are
fitted and figures are made: it would know its own pictures."""

POLICY_TESTS: frozenset[str] = frozenset(
    {
        "watermark.content_credentials",
        "watermark.metadata_source",
        "watermark.metadata_software",
        "watermark.metadata_consistency",
        "frequency.ela",
        "watermark.closed_schemes",
        "watermark.dwt_dct",
        "watermark.dwt_dct_svd",
    }
)
"""Tests whose weights are set by `POLICY`, never fitted: who signed and what was declared is no statistic, a named
editor is no evidence, error level analysis is a picture. What the table does not list weighs nothing."""

POLICY: Mapping[str, tuple[float, float]] = {
    key: (float(entry["manipulated"]), float(entry["ai_generated"])) for key, entry in load_policy().items()
}
"""(log10 LR manipulated, log10 LR AI generated) by explanation key; reasons in tools/watermark/policy.json."""
