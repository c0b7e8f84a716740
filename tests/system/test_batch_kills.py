"""kill -9 of the command, the coordinator, the vision service or the language model in a batch of 100 pictures."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.batch_kills import VICTIMS, Backends, Fleet, make_pictures, run_once
from tests.processes import socket_folder

RUNS = 20
PICTURES = 100


@pytest.fixture(name="fleet", scope="module")
def _fleet() -> Iterator[Fleet]:
    with socket_folder() as folder, Fleet(folder, Backends()) as fleet:
        yield fleet


@pytest.mark.parametrize("seed", range(RUNS))
def test_every_picture_has_one_report_whatever_is_killed_when(fleet: Fleet, tmp_path: Path, seed: int) -> None:
    pictures = make_pictures(tmp_path / "pictures", PICTURES, seed)
    result = run_once(fleet, tmp_path, pictures, VICTIMS[seed % len(VICTIMS)], random.Random(seed))
    shutil.rmtree(tmp_path / "out")
    assert (result.lost_count, result.doubled_count) == (0, 0), result.line
