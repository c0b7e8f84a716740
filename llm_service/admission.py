"""Admission: how many requests may run and wait; more are refused before they cost anything."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from llm_service.domain import Load
from serving.errors import MaifsError, Reason

_SMOOTHING = 0.2
_RETRY_RANGE_S = (0.2, 30.0)


class Admission:
    """Counts the requests of one engine. For use on one event loop."""

    def __init__(self, max_running: int, max_queued: int) -> None:
        self._max_running, self._max_queued = max_running, max_queued
        self._begun: dict[object, float] = {}
        self._completed = 0
        self._output_tokens = 0
        self._mean_duration_s = 1.0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place for as long as the request lasts.

        Raises:
            MaifsError: QUEUE_FULL with the time after which a place is likely.
        """
        waiting = len(self._begun) - self._max_running
        if waiting >= self._max_queued:
            raise MaifsError(
                Reason.QUEUE_FULL,
                f"{self._max_running} requests run and {max(waiting, 0)} wait, the limit of this service.",
                "Send the request again after the delay.",
                retry_after_s=self._retry_after_s(),
            )
        place = object()
        start = self._begun[place] = time.monotonic()
        try:
            yield
        finally:
            del self._begun[place]
            self._mean_duration_s += _SMOOTHING * (time.monotonic() - start - self._mean_duration_s)

    def completed(self, output_tokens_count: int) -> None:
        """Notes a request that ended with an answer."""
        self._completed += 1
        self._output_tokens += output_tokens_count

    def load(self) -> Load:
        """The counts now."""
        oldest_s = time.monotonic() - next(iter(self._begun.values())) if self._begun else 0.0
        return Load(len(self._begun), self._completed, self._output_tokens, oldest_s)

    def _retry_after_s(self) -> float:
        # One running request ends every mean / max_running seconds; half the queue ahead is a fair time to wait.
        turns = max(1.0, self._max_queued / 2) / self._max_running
        return min(max(turns * self._mean_duration_s, _RETRY_RANGE_S[0]), _RETRY_RANGE_S[1])
