"""The pin of this process as it is told to others: health, status, the services' descriptions of themselves."""

from __future__ import annotations

from dataclasses import dataclass

from maifs.common.v1 import gpu_pb2
from serving.gpu.pin import PinProof, PinState

_NUMBERS = {
    PinState.NONE: gpu_pb2.GPU_PIN_STATE_NONE,
    PinState.ENFORCED: gpu_pb2.GPU_PIN_STATE_ENFORCED,
    PinState.ADVISORY: gpu_pb2.GPU_PIN_STATE_ADVISORY,
    PinState.VIOLATED: gpu_pb2.GPU_PIN_STATE_VIOLATED,
}
STATES = {number: state for state, number in _NUMBERS.items()}
"""By the contract's number."""
HEALTH_PREFIX = "maifs.gpu.pin."
"""Of the names under which the health service tells the state: SERVING for the one that holds."""


@dataclass(frozen=True)
class PinReport:
    """State of the pin and what was seen."""

    state: PinState = PinState.NONE
    detail: str = "none: no GPU is configured"
    gpu_uuids: tuple[str, ...] = ()

    @classmethod
    def of(cls, proof: PinProof, gpu_uuids: tuple[str, ...]) -> PinReport:
        """A report of a proof."""
        return cls(proof.state, str(proof), gpu_uuids)

    def message(self) -> gpu_pb2.GpuPin:
        """For the wire."""
        return gpu_pb2.GpuPin(state=_NUMBERS[self.state], detail=self.detail, gpu_uuids=self.gpu_uuids)


_current = PinReport()


def current_pin() -> PinReport:
    """The last report of this process."""
    return _current


def publish(report: PinReport) -> None:
    """Makes a report the current one; the server does it at the start and whenever it has looked again."""
    global _current
    _current = report


def health_names() -> dict[str, bool]:
    """Health names of all states, and whether each one holds."""
    return {HEALTH_PREFIX + state.value: state is _current.state for state in PinState}
