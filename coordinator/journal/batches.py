"""The journal and the work on it, put together for the service."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.journal.journal import Journal
from coordinator.journal.runner import BatchRunner


@dataclass(frozen=True)
class Batches:
    """A journal and the work on it."""

    journal: Journal
    runner: BatchRunner

    async def start(self) -> None:
        """Opens the journal and goes on with what it has.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        await self.journal.open()
        self.runner.start()

    async def queued_count(self) -> int:
        """Items that wait on disk for their turn."""
        if not self.journal.is_open:
            return 0
        queued = await self.journal.read(lambda queries: queries.queued_count())
        return max(0, queued - self.runner.running)

    async def stop(self) -> None:
        """Gives up what is under way, which stays queued, and closes the journal."""
        await self.runner.stop()
        await self.journal.close()
