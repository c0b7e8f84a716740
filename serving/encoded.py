"""An encoded file in the pieces in which it came, so that it can be sent on without being copied together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from serving.channel import CHUNK_BYTES


class Encoded:
    """The bytes of a file, in order. Pieces are kept as they are unless they are small."""

    def __init__(self, data: bytes = b"") -> None:
        self._pieces: list[bytes] = []
        self._small = bytearray()
        self._length = 0
        if data:
            self.add(data)

    def __len__(self) -> int:
        return self._length

    def add(self, data: bytes) -> None:
        """Appends bytes; many small ones cost no more than a few large ones."""
        self._length += len(data)
        if not self._small and len(data) >= CHUNK_BYTES // 2:
            self._pieces.append(data)
            return
        self._small += data
        if len(self._small) >= CHUNK_BYTES:
            self._close_small()

    def _close_small(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small = bytearray()

    def pieces(self) -> Iterable[bytes]:
        """The bytes, in pieces that are not empty."""
        self._close_small()
        return tuple(self._pieces)

    def whole(self) -> bytes:
        """The bytes in one piece, which takes the place of the others."""
        self._close_small()
        if len(self._pieces) > 1:
            self._pieces = [b"".join(self._pieces)]
        return self._pieces[0] if self._pieces else b""

    def sha256(self) -> bytes:
        """Digest, 32 bytes."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
        return digest.digest()
