"""Reports kept for files that come again, as long as nothing that they depend on has changed."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import astuple, dataclass

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
    """The reports that were asked for last, up to so many bytes."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = self.hits = 0
        self._reports: OrderedDict[CacheKey, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reports)

    def find(self, key: CacheKey) -> report_pb2.Report | None:
        """The report under a key; None when there is none."""
        stored = self._reports.get(key)
        if stored is None:
            return None
        self._reports.move_to_end(key)
        self.hits += 1
        return report_pb2.Report.FromString(stored)

    def add(self, key: CacheKey, report: report_pb2.Report) -> None:
        """Keeps a report, if it is complete: one that lacks a part may turn out better next time."""
        failed = (report.HasField("explanation_error"), report.second_look.HasField("error"))
        if report.warnings or any(failed) or report.picture_reading.HasField("error"):
            return
        stored = report.SerializeToString()
        if len(stored) > self.max_bytes:
            return
        self.held_bytes += len(stored) - len(self._reports.pop(key, b""))
        self._reports[key] = stored
        while self.held_bytes > self.max_bytes:
            _, oldest = self._reports.popitem(last=False)
            self.held_bytes -= len(oldest)


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
