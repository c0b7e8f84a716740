"""Exclusive use of the journal's folder: two coordinators on one journal would analyse everything twice."""

from __future__ import annotations

import asyncio
import fcntl
import os
import time
from pathlib import Path

from serving.errors import MaifsError, Reason

WAIT_S = 20.0
"""Seconds that a coordinator waits for the one before it to let go."""
_POLL_S = 0.1


class FolderLock:
    """A lock that the kernel gives back when its process dies, however it dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None

    async def acquire(self) -> None:
        """Makes the folder where there is none, and takes it.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MaifsError(
                Reason.JOURNAL_UNUSABLE,
                f"The journal's folder {self._folder} cannot be used: {error.strerror or error}.",
                "Correct its permissions or choose another (state_folder).",
            ) from error
        end = time.monotonic() + WAIT_S
        while not self._try(self._descriptor):
            if time.monotonic() >= end:
                raise MaifsError(
                    Reason.JOURNAL_UNUSABLE,
                    f"The journal in {self._folder} is in use by another coordinator.",
                    "Stop it, or choose another folder (state_folder, or --out).",
                )
            await asyncio.sleep(_POLL_S)

    @staticmethod
    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Gives it back; harmless when it was not taken."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
