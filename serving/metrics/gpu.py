"""The GPUs of a service and what keeps it on them."""

from __future__ import annotations

import logging

from prometheus_client import CollectorRegistry, Gauge

from serving.gpu.inventory import take_inventory
from serving.gpu.nvml import NvmlCallError, NvmlUnavailableError
from serving.gpu.pin import PinState
from serving.gpu.report import PinReport

_log = logging.getLogger(__name__)


class GpuMetrics:
    """Gauges of the pinned GPUs; a service without a pin says so and names no GPU."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._pin = Gauge(
            "maifs_gpu_pin", "1 for the state that holds (docs/gpu.md), 0 for the others.", ["state"], registry=registry
        )
        self._used = Gauge("maifs_gpu_memory_used_bytes", "Memory in use by all programs.", ["gpu"], registry=registry)
        self._total = Gauge("maifs_gpu_memory_total_bytes", "Memory that programs can use.", ["gpu"], registry=registry)

    def look(self, pin: PinReport) -> None:
        """Sets the gauges; asks the driver, which takes milliseconds: call it in a thread."""
        for state in PinState:
            self._pin.labels(state.value).set(state is pin.state)
        if not pin.gpu_uuids:
            return
        try:
            gpus = take_inventory().gpus
        except (NvmlUnavailableError, NvmlCallError) as error:
            _log.warning("the driver does not tell the GPUs' memory", extra={"detail": str(error)})
            self._used.clear()  # nothing rather than what was true once
            self._total.clear()
            return
        for gpu in gpus:
            if gpu.uuid in pin.gpu_uuids:
                self._used.labels(gpu.uuid).set(gpu.used_bytes)
                self._total.labels(gpu.uuid).set(gpu.total_bytes)
