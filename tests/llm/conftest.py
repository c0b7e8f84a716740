"""One service with the small model and the real engine for all tests here that leave it unharmed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.llm import engine_process
from tests.llm.engine_process import Stub, connected, start_llm
from tests.processes import ServiceProcess, socket_folder


@pytest.fixture(scope="package")
def service() -> Iterator[ServiceProcess]:
    with socket_folder() as folder:
        shown = {"server.metrics.address": f"unix:{folder}/metrics.sock"}
        with start_llm(folder, **shown) as process:
            yield process.wait_serving(180)


@pytest.fixture
async def stub(service: ServiceProcess) -> AsyncIterator[Stub]:
    async with connected(service) as stub:
        yield stub
        await engine_process.wait_idle(stub)
