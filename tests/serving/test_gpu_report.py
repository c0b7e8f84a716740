"""The pin in the health service while a service runs."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from serving import server
from serving.errors import MaifsError, Reason
from serving.gpu import report
from serving.gpu.pin import PinProof, PinState
from serving.gpu.report import PinReport, current_pin, publish
from serving.gpu.service_health import Health, ask
from serving.server import ServerConfig, serve
from tests.processes import socket_folder
from tests.serving.tiny_service import TinyConfig, TinyService

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
ENFORCED = PinReport.of(PinProof(PinState.ENFORCED, (0, 1), (), ()), ("GPU-3",))
WIDENED = PinReport.of(PinProof(PinState.VIOLATED, (0,), (1,), ()), ("GPU-3",))


class FakePin:
    """A session whose device policy a test can widen."""

    def __init__(self, refused: bool = False) -> None:
        self.now, self.refused = ENFORCED, refused

    def prove(self) -> PinReport:
        if self.refused:
            raise MaifsError(Reason.INVALID_CONFIG, "the pin does not hold")
        return self.now

    def look(self) -> PinReport:
        return self.now


@pytest.fixture(name="folder")
def _folder() -> Iterator[Path]:
    with socket_folder() as folder:
        yield folder
    publish(PinReport())


async def states(address: str) -> dict[str, int]:
    """Health of each pin state."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        found = {}
        for state in PinState:
            request = health_pb2.HealthCheckRequest(service=report.HEALTH_PREFIX + state.value)
            found[state.value] = int((await stub.Check(request, wait_for_ready=True, timeout=20)).status)
        return found


async def until(address: str, state: PinState) -> dict[str, int]:
    async with asyncio.timeout(20):
        while (found := await states(address))[state.value] != SERVING:  # noqa: ASYNC110 - health tells no event
            await asyncio.sleep(0.02)
        return found


async def test_health_names_the_state_that_holds_and_follows_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_LOOK_AT_PIN_EVERY_S", 0.05)
    address, pin = f"unix:{folder}/t.sock", FakePin()
    running = asyncio.ensure_future(serve(TinyService(TinyConfig()), ServerConfig(address), pin))
    found = await until(address, PinState.ENFORCED)
    assert [state for state, health in found.items() if health == SERVING] == ["enforced"]
    pin.now = WIDENED
    found = await until(address, PinState.VIOLATED)
    assert found["enforced"] == NOT_SERVING
    assert "lets /dev/nvidia1 through" in current_pin().message().detail
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0


async def test_without_a_gpu_the_state_is_none(folder: Path) -> None:
    address = f"unix:{folder}/t.sock"
    assert ask(address) is Health.SILENT
    running = asyncio.ensure_future(serve(TinyService(TinyConfig()), ServerConfig(address)))
    await until(address, PinState.NONE)
    assert await asyncio.to_thread(ask, address) is Health.SERVING
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(running, 20) == 0


async def test_a_pin_that_is_refused_is_never_served(folder: Path) -> None:
    code = await serve(TinyService(TinyConfig()), ServerConfig(f"unix:{folder}/t.sock"), FakePin(refused=True))
    assert code == Reason.INVALID_CONFIG.exit_code
