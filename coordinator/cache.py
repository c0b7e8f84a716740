"""Reports kept for files that come again, as long as nothing that they depend on has changed."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import astuple, dataclass

from coordinator.cache_store import CacheStore
from coordinator.vision_client import Picture
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from serving.requests import current_request_id


@dataclass(frozen=True)
class CacheKey:
    """Everything that a report depends on."""

    sha256: bytes
    """Of the file."""
    vision: str
    """Versions of the tools and their calibration, as `coordinator.backends.Backend.identity` has them."""
    llm: str
    """The language model, likewise; empty when it is left out."""
    policy: str
    """Everything of the coordinator itself: its version, fusion, prompt, settings."""
    language: str

    def digest(self) -> str:
        """A name for it, 64 hexadecimal digits."""
        return hashlib.sha256(repr(astuple(self)).encode()).hexdigest()


class ReportCache:
    """The reports that were asked for last, up to so many bytes in memory, and on disk where there is a store."""

    def __init__(self, max_bytes: int, store: CacheStore | None = None) -> None:
        """Makes an empty cache.

        Args:
            max_bytes: in memory; 0: nothing is kept anywhere.
            store: keeps them on disk too.
        """
        self.max_bytes, self._store = max_bytes, store
        self.held_bytes = self.hits = 0
        self._reports: OrderedDict[str, bytes] = OrderedDict()
        self._writing: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._reports)

    async def find(self, key: CacheKey) -> report_pb2.Report | None:
        """The report under a key; None when there is none."""
        digest = key.digest()
        stored = self._reports.get(digest)
        if stored is None and self._store is not None:
            stored = await self._store.find(digest)
            if stored is not None:
                self._keep(digest, stored)
        if stored is None:
            return None
        if digest in self._reports:
            self._reports.move_to_end(digest)
        self.hits += 1
        return report_pb2.Report.FromString(stored)

    def add(self, key: CacheKey, report: report_pb2.Report) -> None:
        """Keeps a report, if it is complete: one that lacks a part may turn out better next time."""
        failed = (report.HasField("explanation_error"), report.second_look.HasField("error"))
        if report.warnings or any(failed) or report.picture_reading.HasField("error"):
            return
        digest, stored = key.digest(), report.SerializeToString()
        self._keep(digest, stored)
        if self._store is not None:
            task = asyncio.ensure_future(self._store.add(digest, stored))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    def _keep(self, digest: str, stored: bytes) -> None:
        if len(stored) > self.max_bytes:
            return
        self.held_bytes += len(stored) - len(self._reports.pop(digest, b""))
        self._reports[digest] = stored
        while self.held_bytes > self.max_bytes:
            _, oldest = self._reports.popitem(last=False)
            self.held_bytes -= len(oldest)

    async def close(self) -> None:
        """Ends the writing."""
        await asyncio.gather(*self._writing)
        if self._store is not None:
            await self._store.close()


def replay(report: report_pb2.Report, picture: Picture) -> Iterator[coordinator_pb2.ItemEvent]:
    """The events of a picture whose report was made before, in the order of those of a new one."""
    report.file_name = picture.file_name
    report.from_cache.serve_time.FromNanoseconds(time.time_ns())
    report.from_cache.request_id = current_request_id.get()
    for result in report.tool_results:
        yield coordinator_pb2.ItemEvent(tool_result=result)
    reached = coordinator_pb2.VerdictReached(verdict=report.verdict, probability=report.probability)
    yield coordinator_pb2.ItemEvent(verdict_reached=reached)
    yield coordinator_pb2.ItemEvent(report=report)
