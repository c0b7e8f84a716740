"""How often the a-contrario tests raise a false alarm on synthetic pictures without their trace.

A number of false alarms (NFA) below 1e-2 must not come more often than on one picture in a hundred. Run:
`python -m benchmarks.false_alarms [--pictures 1000] [--tests frequency.foreign_grid ...]`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import camera
from vision_service.decode import decode
from vision_service.domain import Observation, Outcome, Test
from vision_service.limits import DecodeLimits
from vision_service.tools.frequency import (
    double_jpeg,
    double_jpeg_shifted,
    foreign_grid,
    resampling,
    upsampling_peaks,
)
from vision_service.tools.noise.cfa import CFA
from vision_service.tools.noise.level_map import LEVEL_MAP
from vision_service.tools.noise.low_noise_regions import LOW_NOISE_REGIONS
from vision_service.tools.noise.prnu import Fingerprint, prnu_test
from vision_service.tools.spatial import copy_move
from vision_service.tools.watermark import dwt_marks

NFA = 1e-2
"""The number of false alarms at which alarms are counted: at most this share of pictures may raise one."""
SIGNIFICANCE = 1e-3
"""A count is refused when a rate of exactly `NFA` gives as many or more with less than this probability."""

History = Callable[[int, np.random.Generator], bytes]
"""Size in px and source of randomness to a file with a genuine photo's past."""


def _photo(size: int, rng: np.random.Generator) -> camera.ByteArray:
    """A photo with a sensor drawn at random, from clean to very noisy."""
    strength = float(np.exp(rng.uniform(np.log(0.3), np.log(6.0))))
    sensor = camera.Sensor(shot=4e-4 * strength, read=2e-3 * np.sqrt(strength))
    return camera.photo(size, size, int(rng.integers(2**31)), sensor)


def _quality(rng: np.random.Generator, low: int = 60) -> int:
    return int(rng.integers(low, 100))


def lossless(size: int, rng: np.random.Generator) -> bytes:
    """As the camera's processor hands it out."""
    return camera.to_png(_photo(size, rng))


def jpeg(size: int, rng: np.random.Generator) -> bytes:
    """Saved once."""
    return camera.to_jpeg(_photo(size, rng), _quality(rng), subsampling=str(rng.choice(["4:4:4", "4:2:0"])))


def fine_jpeg(size: int, rng: np.random.Generator) -> bytes:
    """Saved once at a camera's quality."""
    return camera.to_jpeg(_photo(size, rng), _quality(rng, 90))


def jpeg_twice(size: int, rng: np.random.Generator) -> bytes:
    """Saved again as a whole, at any quality."""
    return camera.to_jpeg(camera.from_file(jpeg(size, rng)), _quality(rng))


def cropped(size: int, rng: np.random.Generator) -> bytes:
    """Cropped off the block grid after a first JPEG and saved again."""
    top, left = (int(v) for v in rng.integers(1, 16, 2))
    first = camera.from_file(jpeg(size + 16, rng))
    return camera.to_jpeg(np.ascontiguousarray(first[top : top + size, left : left + size]), _quality(rng))


def resized(size: int, rng: np.random.Generator) -> bytes:
    """Made smaller after a first JPEG, as sites do, and saved again."""
    first = camera.from_file(jpeg(int(size * rng.uniform(1.2, 2.2)) // 2 * 2, rng))
    how = int(rng.choice([cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4, cv2.INTER_LINEAR]))
    return camera.to_jpeg(np.asarray(cv2.resize(first, (size, size), interpolation=how)), _quality(rng))


@dataclass(frozen=True)
class Null:
    """One test with pictures on which its null hypothesis holds."""

    test: Test
    size_px: int
    histories: tuple[History, ...]
    ci_pictures: int = 200
    """How many the test suite takes."""

    def pictures(self, count: int) -> Iterator[tuple[History, bytes]]:
        """The first `count` pictures, all histories in turn; always the same ones."""
        for seed in range(count):
            history = self.histories[seed % len(self.histories)]
            yield history, history(self.size_px, np.random.default_rng([seed, self.size_px]))


@dataclass(frozen=True)
class Count:
    """What the pictures gave."""

    ran: int
    alarms: int
    by_history: dict[str, int]

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % Clopper-Pearson bound of the rate of alarms."""
        return float(stats.beta.ppf(0.95, self.alarms + 1, max(self.ran - self.alarms, 1e-9)))

    @property
    def kept(self) -> bool:
        """Whether the count is possible under the promise: P(Bin(ran, NFA) >= alarms) >= `SIGNIFICANCE`."""
        return bool(stats.binom.sf(self.alarms - 1, self.ran, NFA) >= SIGNIFICANCE)


def alarm(seen: Observation) -> bool:
    """Whether an observation states a number of false alarms below `NFA`."""
    return seen.log10_nfa is not None and seen.log10_nfa < np.log10(NFA)


def count_alarms(null: Null, pictures: int) -> Count:
    """Runs a test over pictures of its null hypothesis; those to which it does not apply count as not run."""
    ran, by_history = 0, {history.__name__: 0 for history in null.histories}
    for history, data in null.pictures(pictures):
        seen = null.test.run(decode(data, DecodeLimits()))
        ran += seen.outcome is Outcome.TESTED
        by_history[history.__name__] += alarm(seen)
    return Count(ran, sum(by_history.values()), by_history)


def _foreign_fingerprint() -> Fingerprint:
    """The pattern of a sensor that took none of the pictures."""
    pattern = np.random.default_rng(99).normal(0, 0.01, (288, 288))
    return Fingerprint(pattern.astype(np.float32), "another camera")


WHOLE = (lossless, jpeg, jpeg_twice, cropped, resized)
NULLS: tuple[Null, ...] = (
    Null(foreign_grid.TEST, 256, WHOLE),
    Null(double_jpeg.TEST, 256, (jpeg, jpeg_twice, cropped, resized)),
    Null(double_jpeg_shifted.TEST, 256, (jpeg, jpeg_twice, resized)),
    Null(resampling.TEST, 642, WHOLE),
    Null(upsampling_peaks.TEST, 264, WHOLE),
    Null(LEVEL_MAP, 384, (lossless, fine_jpeg)),
    Null(LOW_NOISE_REGIONS, 576, (lossless, fine_jpeg)),
    Null(CFA, 384, (lossless, fine_jpeg)),
    Null(prnu_test(_foreign_fingerprint()), 256, WHOLE),
    Null(dwt_marks.TESTS[0], 264, WHOLE),
    Null(dwt_marks.TESTS[1], 264, WHOLE),
    Null(copy_move.TEST, 256, WHOLE),
)
"""Every test that states a number of false alarms."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints alarms by test and history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000, help="pictures a test")
    parser.add_argument("--tests", nargs="*", help="ids; all when not given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    table = Table("test", "ran", f"NFA < {NFA:g}", "upper 95 % bound", "kept", "by history", "s")
    for null in NULLS:
        if options.tests and null.test.id not in options.tests:
            continue
        start = time.perf_counter()
        count = count_alarms(null, options.pictures)
        cells = (count.ran, count.alarms, f"{count.upper_bound:.2%}", "yes" if count.kept else "NO")
        spent = f"{time.perf_counter() - start:.0f}"
        table.add_row(null.test.id, *map(str, cells), ", ".join(f"{k} {v}" for k, v in count.by_history.items()), spent)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
