"""A run of which nothing is left to do: its reports are read from the journal, and no service is started."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.rpc import status_pb2

from coordinator.client.batch_submit import item_name
from coordinator.client.pictures import Picture
from coordinator.client.stream import Failed, Reported
from coordinator.client.upload import open_picture
from coordinator.journal.records import ItemRecord, ItemState
from coordinator.journal.view import JournalView, stored_journal
from maifs.coordinator.v1 import batch_pb2
from serving.errors import MaifsError, Reason
from serving.status import from_status


@dataclass(frozen=True)
class FinishedBatch:
    """What became of each picture of a list."""

    folder: Path
    batch_id: str
    ends: Sequence[ItemRecord | MaifsError]
    """By picture: the settled item, or why the file cannot be read."""

    @property
    def known(self) -> set[int]:
        """Pictures that had ended before this run."""
        return {index for index, end in enumerate(self.ends) if isinstance(end, ItemRecord)}

    async def events(self) -> AsyncGenerator[Reported | Failed, None]:
        """One for each picture; one report at a time is in memory."""
        async with stored_journal(self.folder) as journal:
            for index, end in enumerate(self.ends):
                if isinstance(end, MaifsError):
                    yield Failed(index, end)
                elif end.state is ItemState.REPORTED:
                    request = batch_pb2.GetReportRequest(batch_id=self.batch_id, position=end.position)
                    yield Reported(index, (await journal.get_report(request)).report)
                else:
                    yield Failed(index, from_status(status_pb2.Status.FromString(end.error)))


async def find_finished(folder: Path, batch_id: str, pictures: Sequence[Picture]) -> FinishedBatch | None:
    """The batch when the journal in a folder has settled every picture as it is now; None when work is left.

    Files are read for their digests, the first that is not settled ends the search.
    """
    try:
        async with stored_journal(folder) as journal:
            ends = []
            for picture in pictures:
                end = await _settled(journal, batch_id, picture)
                if end is None:
                    return None
                ends.append(end)
    except MaifsError as error:
        if error.reason in {Reason.NO_JOURNAL, Reason.JOURNAL_UNUSABLE, Reason.UNKNOWN_BATCH}:
            return None  # its coordinator makes it, or says what is wrong with it
        raise
    if not any(isinstance(end, ItemRecord) for end in ends):
        return None
    return FinishedBatch(folder, batch_id, ends)


async def _settled(journal: JournalView, batch_id: str, picture: Picture) -> ItemRecord | MaifsError | None:
    try:
        digest = await asyncio.to_thread(_digest, picture)
    except MaifsError as error:
        return error
    item = await journal.read(lambda queries: queries.find_key(batch_id, item_name(picture), digest))
    return item if item and item.is_settled else None


def _digest(picture: Picture) -> bytes:
    opened = open_picture(picture, max_image_bytes=2**63 - 1)
    opened.file.close()
    return opened.sha256
