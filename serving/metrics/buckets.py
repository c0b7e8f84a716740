"""Bounds of histograms. Each is a series for each combination of labels, so there are as few as the questions need."""

from __future__ import annotations

SECONDS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 60.0, 120.0, 300.0)
"""From the fusion of evidence (below a millisecond) to `llm_timeout_s` (120) and `item_timeout_s` (300), beyond which
everything is late. Two to three bounds a decade are enough to tell twice as slow from normal."""

COUNTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Batches: an engine's graphs are captured for powers of two, and throughput is judged by doublings."""

PIXELS = (0.25e6, 1e6, 2e6, 4e6, 8e6, 12e6, 16e6, 24e6, 32e6, 48e6, 64e6, 100e6)
"""Thumbnails, pictures for the web, the sensors on the market, and what the standard memory budget takes (64e6)."""

BYTES = tuple(float(2**power) for power in (14, 16, 18, 20, 21, 22, 23, 24, 25, 26, 27))
"""16 KiB to `max_image_bytes` (128 MiB); finer between 1 and 16 MiB, where photographs are."""
