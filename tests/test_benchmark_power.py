"""The forgeries of the power benchmark."""

from __future__ import annotations

import numpy as np

from benchmarks import camera, power


def test_a_forgery_differs_in_the_square_alone_and_by_the_noise_asked_for() -> None:
    same, noisier = (camera.from_file(power.forged(3, ratio, 96, None)).astype(float) for ratio in (1.0, 4.0))
    rows, columns = np.nonzero(np.abs(same - noisier).max(axis=2))
    assert len(rows) > 5000
    assert np.ptp(rows) < 96
    assert np.ptp(columns) < 96
    place = np.s_[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    finest = [np.diff(picture[place], n=3, axis=0).std() for picture in (same, noisier)]
    assert finest[1] > 2 * finest[0]
