"""How often the noise tests find a patch of another sensor: by its noise, its size and the file's compression.

The forgeries are synthetic: one scene seen by two sensors, a square of the second picture in the first, saved once.
Run: `python -m benchmarks.power [--pictures 40]`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import camera
from vision_service.decode import decode
from vision_service.domain import Outcome, Test
from vision_service.limits import DecodeLimits
from vision_service.tools.noise.level_map import LEVEL_MAP
from vision_service.tools.noise.low_noise_regions import LOW_NOISE_REGIONS

SIDE_PX = 1152
TESTS: tuple[Test, ...] = (LOW_NOISE_REGIONS, LEVEL_MAP)
RATIOS = (0.25, 0.5, 2.0, 4.0)
"""Deviation of the patch's noise over that of its ground."""
PATCHES_PX = (96, 192, 320)
QUALITIES = (None, 95, 88)
"""JPEG quality; None is lossless."""


@dataclass(frozen=True)
class Rate:
    """What one test found of one kind of patch."""

    ran: int
    detected: int


def forged(seed: int, ratio: float, patch_px: int, quality: int | None) -> bytes:
    """A picture of `SIDE_PX` with a square from a sensor whose noise has `ratio` times the deviation."""
    rng = np.random.default_rng([seed, patch_px])
    linear = camera.scene(SIDE_PX, SIDE_PX, rng)
    ground = camera.Sensor(shot=8e-4, read=4e-3)
    other = camera.Sensor(shot=ground.shot * ratio**2, read=ground.read * ratio)
    picture = camera.expose(linear, rng, ground).copy()
    top, left = (int(v) for v in rng.integers(0, SIDE_PX - patch_px, 2))
    place = np.s_[top : top + patch_px, left : left + patch_px]
    picture[place] = camera.expose(linear, rng, other)[place]
    return camera.to_png(picture) if quality is None else camera.to_jpeg(picture, quality)


def rates(pictures: int) -> Iterator[tuple[str, int | None, int, float, Rate]]:
    """Test, quality, patch side, ratio and what was found."""
    for quality, patch_px, ratio in product(QUALITIES, PATCHES_PX, RATIOS):
        substrates = [decode(forged(seed, ratio, patch_px, quality), DecodeLimits()) for seed in range(pictures)]
        for test in TESTS:
            seen = [test.run(substrate) for substrate in substrates]
            ran = sum(observation.outcome is Outcome.TESTED for observation in seen)
            yield test.id, quality, patch_px, ratio, Rate(ran, sum(observation.detected for observation in seen))


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the share of patches found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=40, help="pictures for each kind of patch")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = list(rates(options.pictures))
    table = Table("test", "file", "patch", *(f"noise x {ratio:g}" for ratio in RATIOS))
    for test, quality, patch_px in product((test.id for test in TESTS), QUALITIES, PATCHES_PX):
        row = {r[3]: r[4] for r in found if r[:3] == (test, quality, patch_px)}
        cells = [f"{rate.detected}/{rate.ran}" for rate in (row[ratio] for ratio in RATIOS)]
        table.add_row(test, "lossless" if quality is None else f"JPEG {quality}", f"{patch_px} px", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
