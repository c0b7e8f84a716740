"""How often the a-contrario tests raise a false alarm on synthetic pictures without their trace.

A number of false alarms (NFA) below 1e-2 must not come more often than on one picture in a hundred. Run:
`python -m benchmarks.false_alarms [--pictures 1000] [--batch small] [--out FILE]`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats

from benchmarks import camera
from vision_service.decode import decode
from vision_service.domain import Outcome, Test
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
    """One test with the histories that leave its null hypothesis true."""

    test: Test
    histories: tuple[History, ...]


@dataclass(frozen=True)
class Batch:
    """Tests that can share their pictures, each decoded once."""

    size_px: int
    nulls: tuple[Null, ...]
    histories: tuple[History, ...]


@dataclass(frozen=True)
class Answer:
    """What one test said of one picture."""

    test_id: str
    history: str
    seed: int
    ran: bool
    log10_nfa: float | None

    @property
    def alarm(self) -> bool:
        """Whether it states a number of false alarms below `NFA`."""
        return self.log10_nfa is not None and self.log10_nfa < np.log10(NFA)


@dataclass(frozen=True)
class Count:
    """Alarms of one test."""

    ran: int
    alarms: int

    @property
    def upper_bound(self) -> float:
        """One-sided 95 % Clopper-Pearson bound of the rate of alarms."""
        return float(stats.beta.ppf(0.95, self.alarms + 1, max(self.ran - self.alarms, 1e-9)))

    @property
    def kept(self) -> bool:
        """Whether the count is possible under the promise: P(Bin(ran, NFA) >= alarms) >= `SIGNIFICANCE`."""
        return bool(stats.binom.sf(self.alarms - 1, self.ran, NFA) >= SIGNIFICANCE)


def answers(batch: Batch, seeds: Iterable[int]) -> Iterator[Answer]:
    """Runs the tests of a batch over its pictures, all histories in turn; the same seed gives the same picture."""
    for seed in seeds:
        history = batch.histories[seed % len(batch.histories)]
        nulls = [null for null in batch.nulls if history in null.histories]
        if not nulls:
            continue
        data = history(batch.size_px, np.random.default_rng([seed, batch.size_px]))
        substrate = decode(data, DecodeLimits())
        for null in nulls:
            seen = null.test.run(substrate)
            yield Answer(null.test.id, history.__name__, seed, seen.outcome is Outcome.TESTED, seen.log10_nfa)


def count(given: Iterable[Answer]) -> Count:
    """Alarms among the answers of one test; pictures to which it did not apply are left out."""
    ran = [answer for answer in given if answer.ran]
    return Count(len(ran), sum(answer.alarm for answer in ran))


def _foreign_fingerprint() -> Fingerprint:
    """The pattern of a sensor that took none of the pictures."""
    pattern = np.random.default_rng(99).normal(0, 0.01, (288, 288))
    return Fingerprint(pattern.astype(np.float32), "another camera")


WHOLE = (lossless, jpeg, jpeg_twice, cropped, resized)
SMALL = Batch(
    264,
    (
        Null(foreign_grid.TEST, WHOLE),
        Null(double_jpeg.TEST, (jpeg, jpeg_twice, cropped, resized)),
        Null(double_jpeg_shifted.TEST, (jpeg, jpeg_twice, resized)),
        Null(upsampling_peaks.TEST, WHOLE),
        Null(prnu_test(_foreign_fingerprint()), WHOLE),
        Null(dwt_marks.TESTS[0], WHOLE),
        Null(dwt_marks.TESTS[1], WHOLE),
        Null(copy_move.TEST, WHOLE),
    ),
    WHOLE,
)
LARGE = Batch(
    642,
    (
        Null(resampling.TEST, (lossless, fine_jpeg, resized)),
        Null(LEVEL_MAP, (lossless, fine_jpeg)),
        Null(LOW_NOISE_REGIONS, (lossless, fine_jpeg)),
        Null(CFA, (lossless, fine_jpeg)),
    ),
    (lossless, fine_jpeg, resized),
)
BATCHES = {"small": SMALL, "large": LARGE}
"""Every test that states a number of false alarms."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints alarms by test and history."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=1000, help="pictures a batch")
    parser.add_argument("--first", type=int, default=0, help="number of the first picture")
    parser.add_argument("--batch", choices=BATCHES, action="append", help="both when not given")
    parser.add_argument("--out", type=Path, help="JSON-lines file; answers are added to it, and all of it is counted")
    parser.add_argument("--tests", nargs="*", help="ids; all when not given")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    found = []
    for name in options.batch or BATCHES:
        nulls = [n for n in BATCHES[name].nulls if not options.tests or n.test.id in options.tests]
        batch = Batch(BATCHES[name].size_px, tuple(nulls), BATCHES[name].histories)
        for answer in answers(batch, range(options.first, options.first + options.pictures)):
            found.append(answer)
            if options.out:
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(answer)) + "\n")
    if options.out:
        lines = options.out.read_text(encoding="utf-8").splitlines()
        found = [Answer(**json.loads(line)) for line in lines]
    Console(width=180).print(_table(found))


def _table(found: Sequence[Answer]) -> Table:
    table = Table("test", "ran", f"NFA < {NFA:g}", "upper 95 % bound", "kept", "by history")
    for test_id in dict.fromkeys(answer.test_id for answer in found):
        own = [answer for answer in found if answer.test_id == test_id]
        total = count(own)
        parts = [(h, count(a for a in own if a.history == h)) for h in dict.fromkeys(a.history for a in own)]
        by_history = ", ".join(f"{name} {part.alarms}/{part.ran}" for name, part in parts)
        cells = (f"{total.ran}", f"{total.alarms}", f"{total.upper_bound:.2%}", "yes" if total.kept else "NO")
        table.add_row(test_id, *cells, by_history)
    return table


if __name__ == "__main__":
    main()
