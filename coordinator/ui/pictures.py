"""The pictures of one run of the page: kept on disk, analysed a few at a time, watched by any number of tabs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.client import AsyncClient, Event, Failed, Reported, ToolEnded, VerdictKnown
from coordinator.client.pictures import FilePicture
from coordinator.client.report import Report
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import coordinator_pb2
from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)

MAX_PICTURES = 200
"""Pictures that a run keeps; beyond it the oldest finished ones go."""
CONCURRENCY = 4
"""Pictures under way at a time."""


@dataclass(eq=False)
class UiPicture:
    """One picture and what is known of it by now."""

    id: str
    name: str
    path: Path
    tools: list[finding_pb2.ToolResult] = field(default_factory=list)
    verdict: coordinator_pb2.VerdictReached | None = None
    report: Report | None = None
    error: MaifsError | None = None
    task: asyncio.Task[None] | None = None

    @property
    def file(self) -> FilePicture:
        """What is sent."""
        return FilePicture(self.path, shown_name=self.name)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.report is not None or self.error is not None


class Pictures:
    """All of them."""

    def __init__(self, client: AsyncClient, folder: Path) -> None:
        """Takes a folder of its own for the files."""
        self._client, self._folder = client, folder
        self._numbers = itertools.count(1)
        self._all: dict[str, UiPicture] = {}
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._watchers: set[asyncio.Queue[UiPicture]] = set()

    def newest_first(self) -> list[UiPicture]:
        """What there is."""
        return list(reversed(self._all.values()))

    def get(self, picture_id: str) -> UiPicture | None:
        """One of them."""
        return self._all.get(picture_id)

    async def add(self, name: str, chunks: AsyncIterator[bytes], max_image_bytes: int) -> UiPicture:
        """Stores a file as it comes and begins to analyse it.

        Raises:
            MaifsError: IMAGE_TOO_LARGE, EMPTY_FILE.
        """
        number = str(next(self._numbers))
        path = self._folder / number
        try:
            await _store(path, chunks, max_image_bytes)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        picture = self._all[number] = UiPicture(number, name, path)
        picture.task = asyncio.ensure_future(self._analyze(picture))
        self._evict()
        self._tell(picture)
        return picture

    def remove(self, picture_id: str) -> bool:
        """Gives one up, and its analysis when that is still going on."""
        picture = self._all.pop(picture_id, None)
        if picture is None:
            return False
        if picture.task:
            picture.task.cancel()
        picture.path.unlink(missing_ok=True)
        return True

    async def changes(self) -> AsyncGenerator[UiPicture, None]:
        """Pictures as something happens to them; a watcher that reads slowly sees the latest state once."""
        queue: asyncio.Queue[UiPicture] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            while True:
                changed = {await queue.get(): None}
                while not queue.empty():
                    changed[queue.get_nowait()] = None
                for picture in changed:
                    yield picture
        finally:
            self._watchers.discard(queue)

    async def close(self) -> None:
        """Ends all work."""
        tasks = [picture.task for picture in self._all.values() if picture.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _evict(self) -> None:
        ended = [picture.id for picture in self._all.values() if picture.ended]
        for picture_id in ended[: max(0, len(self._all) - MAX_PICTURES)]:
            self.remove(picture_id)

    def _tell(self, picture: UiPicture) -> None:
        for queue in self._watchers:
            queue.put_nowait(picture)

    async def _analyze(self, picture: UiPicture) -> None:
        try:
            async with self._slots, contextlib.aclosing(self._client.events(picture.file)) as events:
                async for event in events:
                    _take(picture, event)
                    self._tell(picture)
        except MaifsError as error:
            self._fail(picture, error)
        except Exception as error:  # noqa: BLE001 - one picture's fault is shown, the page goes on
            _log.exception("picture failed")
            message = f"The page failed unexpectedly: {type(error).__name__}."
            self._fail(picture, MaifsError(Reason.INTERNAL, message))

    def _fail(self, picture: UiPicture, error: MaifsError) -> None:
        picture.error = error
        self._tell(picture)


def _take(picture: UiPicture, event: Event) -> None:
    if isinstance(event, ToolEnded):
        picture.tools.append(event.result)
    elif isinstance(event, VerdictKnown):
        picture.verdict = event.verdict
    elif isinstance(event, Reported):
        picture.report = Report(event.report, picture.file)
    elif isinstance(event, Failed):
        picture.error = event.error


async def _store(path: Path, chunks: AsyncIterator[bytes], max_image_bytes: int) -> None:
    size = 0
    with path.open("wb") as file:
        async for chunk in chunks:
            size += len(chunk)
            if size > max_image_bytes:
                raise MaifsError(
                    Reason.IMAGE_TOO_LARGE, f"The file is larger than the {max_image_bytes:,} bytes that are taken."
                )
            await asyncio.to_thread(file.write, chunk)
    if not size:
        raise MaifsError(Reason.EMPTY_FILE, "The file has no bytes.")
