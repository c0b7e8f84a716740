"""The coordinator's state as gauges, set when somebody looks."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry, Gauge

from coordinator.admission import Admission
from coordinator.backends.backend import Health
from coordinator.backends.fair_queue import ANYBODY
from coordinator.backends.pool import Pool
from coordinator.cache import ReportCache
from coordinator.journal.batches import Batches
from coordinator.journal.records import ItemState


class StateMetrics:
    """Queues, backends, memory, cache and journal."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"maifs_coordinator_{name}", text, labels, registry=registry)

        self._queue = gauge("queue_items", "Pictures or questions that wait for a place at a backend.", "backend")
        self._oldest = gauge("queue_oldest_seconds", "For how long the first of them has waited.", "backend")
        self._expected = gauge("queue_expected_wait_seconds", "How long one that came now would wait.", "backend")
        self._serving = gauge("backend_serving", "1 when the backend gets work, else 0.", "backend", "address")
        self._calls = gauge("backend_open_calls", "Calls that are with the backend.", "backend", "address")
        self._held = gauge("held_bytes", "Encoded pictures in memory.")
        self._held_limit = gauge("held_limit_bytes", "Most of them: max_held_bytes.")
        self._held_items = gauge("held_items", "Pictures in memory, those that are being received included.")
        self._cached = gauge("cache_bytes", "Reports kept in memory.")
        self._journal = gauge("journal_items", "Pictures of batches on disk.", "state")
        self._spooled = gauge("journal_spool_bytes", "Queued pictures of batches on disk.")
        self._spool_limit = gauge("journal_spool_limit_bytes", "Most of them: max_spool_bytes.")

    def look_at_pool(self, name: str, pool: Pool[Any]) -> None:
        """Sets the gauges of a service's backends; called for every pool after `forget_backends`."""
        self._queue.labels(name).set(pool.waiting)
        self._oldest.labels(name).set(pool.oldest_waiting_s())
        self._expected.labels(name).set(pool.expected_wait_s(ANYBODY))
        for backend in pool.backends:
            works = backend.health is Health.SERVING and not backend.suspended
            self._serving.labels(name, backend.address).set(works)
            self._calls.labels(name, backend.address).set(backend.open_calls)

    def forget_backends(self) -> None:
        """Backends come and go; those that went are not shown."""
        self._serving.clear()
        self._calls.clear()

    def look_at_memory(self, admission: Admission, cache: ReportCache) -> None:
        """Sets the gauges of what is held."""
        self._held.set(admission.held_bytes)
        self._held_limit.set(admission.max_bytes)
        self._held_items.set(admission.held_items)
        self._cached.set(cache.held_bytes)

    async def look_at_journal(self, batches: Batches) -> None:
        """Sets the gauges of the batches, counted in the journal's reader thread.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        if not batches.journal.is_open:
            return
        counts = await batches.journal.read(lambda reader: reader.count_items())
        running = batches.runner.running
        counts |= {ItemState.RUNNING: running, ItemState.QUEUED: max(counts[ItemState.QUEUED] - running, 0)}
        for state, count in counts.items():
            self._journal.labels(state.name.lower()).set(count)
        self._spooled.set(batches.journal.spooled_bytes)
        self._spool_limit.set(batches.journal.max_spool_bytes)
