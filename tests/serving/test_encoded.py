"""Files in pieces."""

from __future__ import annotations

import hashlib
import random

import pytest

from serving.channel import CHUNK_BYTES
from serving.encoded import Encoded


@pytest.mark.parametrize("seed", range(5))
def test_however_the_bytes_come_they_are_the_same_file(seed: int) -> None:
    rng = random.Random(seed)
    data = rng.randbytes(3 * CHUNK_BYTES + 17)
    file, start = Encoded(), 0
    while start < len(data):
        size = rng.choice([1, 1000, CHUNK_BYTES // 2, CHUNK_BYTES])
        file.add(data[start : start + size])
        start += size
    assert len(file) == len(data)
    pieces = list(file.pieces())
    assert b"".join(pieces) == data
    assert all(pieces)
    assert file.sha256() == hashlib.sha256(data).digest()
    assert file.whole() == data
    assert list(file.pieces()) == [data]


def test_many_small_pieces_are_put_together() -> None:
    file = Encoded()
    for _ in range(5000):
        file.add(b"x" * 1000)
    assert len(list(file.pieces())) <= 5


def test_large_pieces_are_not_copied() -> None:
    piece = bytes(CHUNK_BYTES)
    file = Encoded(piece)
    file.add(piece)
    assert all(kept is piece for kept in file.pieces())


def test_an_empty_file() -> None:
    file = Encoded()
    assert (file.whole(), list(file.pieces()), len(file)) == (b"", [], 0)
