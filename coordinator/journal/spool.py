"""The bytes of queued items: a folder of files named by their digest, complete or not there at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from serving.errors import MaifsError, Reason

_PART = ".part"
_FULL_RETRY_S = 10.0


class Spool:
    """The folder. Its methods block; none needs a lock as long as `keep` and `remove` are called by one thread."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        self.folder = folder
        with _storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self, wanted: Collection[bytes]) -> int:
        """Removes what no queued item needs, half-received files among it; returns how many files that were.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        names = {sha256.hex() for sha256 in wanted}
        with _storage_errors(self.folder):
            unwanted = [path for path in self.folder.iterdir() if path.name not in names]
            for path in unwanted:
                path.unlink()
        return len(unwanted)

    def open(self, sha256: bytes, size_bytes: int) -> Upload:
        """Begins to receive a file.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        return Upload(self.folder, sha256, size_bytes)

    def keep(self, upload: Upload) -> None:
        """Makes a finished upload a file of the spool that survives a power cut.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        with _storage_errors(self.folder):
            upload.path.replace(self._path(upload.sha256))
            _sync_folder(self.folder)

    def read(self, sha256: bytes) -> bytes:
        """A file's bytes.

        Raises:
            MaifsError: FILE_UNREADABLE.
        """
        try:
            return self._path(sha256).read_bytes()
        except OSError as error:
            raise MaifsError(
                Reason.FILE_UNREADABLE,
                f"The stored bytes of the picture cannot be read: {error.strerror}.",
                "Submit the picture again.",
            ) from error

    def remove(self, sha256: bytes) -> None:
        """Removes a file that is not needed any more. One that cannot be removed is left to the next `clean`."""
        with contextlib.suppress(OSError):
            self._path(sha256).unlink()

    def _path(self, sha256: bytes) -> Path:
        return self.folder / sha256.hex()


class Upload:
    """A file that is being received. End it with `finish` or `discard`."""

    def __init__(self, folder: Path, sha256: bytes, size_bytes: int) -> None:
        """Makes a temporary file in the folder.

        Raises:
            MaifsError: STORAGE_FULL.
        """
        self.sha256, self.size_bytes, self.received_bytes = sha256, size_bytes, 0
        self._digest = hashlib.sha256()
        with _storage_errors(folder):
            descriptor, name = tempfile.mkstemp(suffix=_PART, dir=folder)
        self.path = Path(name)
        self._file = os.fdopen(descriptor, "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Adds bytes.

        Raises:
            MaifsError: SIZE_MISMATCH for more bytes than were announced, STORAGE_FULL.
        """
        self.received_bytes += len(data)
        if self.received_bytes > self.size_bytes:
            raise MaifsError(Reason.SIZE_MISMATCH, f"More bytes came than the {self.size_bytes:,} announced.")
        self._digest.update(data)
        view = memoryview(data)
        with _storage_errors(self.path.parent):
            while view:
                view = view[self._file.write(view) :]

    def finish(self) -> None:
        """Checks size and digest and puts the bytes on the disk.

        Raises:
            MaifsError: SIZE_MISMATCH, SHA256_MISMATCH, STORAGE_FULL.
        """
        if self.received_bytes != self.size_bytes:
            raise MaifsError(
                Reason.SIZE_MISMATCH,
                f"`end` came after {self.received_bytes:,} of {self.size_bytes:,} announced bytes.",
            )
        if self._digest.digest() != self.sha256:
            raise MaifsError(
                Reason.SHA256_MISMATCH,
                f"The bytes received have SHA-256 {self._digest.hexdigest()[:16]}…, announced was "
                f"{self.sha256.hex()[:16]}….",
                "The file changed or was damaged on the way; send it again.",
            )
        with _storage_errors(self.path.parent):
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Removes the temporary file. Harmless after `Spool.keep`."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self.path.unlink()


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise MaifsError(
            Reason.STORAGE_FULL,
            f"{folder} cannot be written: {error.strerror or error}.",
            "Make room on its disk; what was accepted is safe.",
            retry_after_s=_FULL_RETRY_S,
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
