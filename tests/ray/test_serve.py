"""The services on a local Ray cluster of two nodes. Needs the package ray (requirements/ray.txt)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.camera import photo, to_jpeg
from serving.channel_security import ChannelSecurity

ray = pytest.importorskip("ray", reason="ray is not installed (requirements/ray.txt)")

from coordinator.client import AsyncClient  # noqa: E402
from coordinator.client.async_client import Options as ClientOptions  # noqa: E402
from deploy.ray.app import ByLoad, Options, build  # noqa: E402
from deploy.ray.directory import directory  # noqa: E402
from deploy.ray.process import free_address  # noqa: E402

INSECURE = ChannelSecurity(insecure=True)


@pytest.fixture(name="address", scope="module")
def _address() -> Iterator[str]:
    from ray import serve
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False)
    address = free_address("127.0.0.1")
    serve.start(http_options={"location": "NoServer"})
    options = Options(
        host="127.0.0.1",
        port=int(address.rpartition(":")[2]),
        security={"insecure": "true"},
        min_visions=2,
        max_visions=2,
        vision_cpus=1,
        coordinator={"cache_bytes": "0"},
    )
    try:
        serve.run(build(options), name="maifs", route_prefix=None)
        yield address
    finally:
        serve.shutdown()
        ray.shutdown()
        cluster.shutdown()


def _addresses() -> list[str]:
    return list(ray.get(directory().addresses.remote("vision"), timeout=10))


def _wait_for_visions(count: int, gone: str = "") -> None:
    end = time.monotonic() + 120
    while len(now := _addresses()) != count or gone in now:
        assert time.monotonic() < end, f"announced: {now}"
        time.sleep(0.5)


async def _verdicts(address: str, pictures: list[bytes]) -> list[str]:
    async with AsyncClient(address, options=ClientOptions(use_llm=False), security=INSECURE) as client:
        reports = await asyncio.gather(*(client.analyze(data) for data in pictures))
    return [report.verdict.value for report in reports]


def test_a_killed_vision_service_is_replaced_and_no_picture_is_lost(address: str) -> None:
    _wait_for_visions(2)
    pictures = [to_jpeg(photo(96, 128, seed=seed)) for seed in range(12)]
    before = asyncio.run(_verdicts(address, pictures))

    async def with_a_kill() -> list[str]:
        analysis = asyncio.ensure_future(_verdicts(address, pictures))
        await asyncio.sleep(0.5)
        victim = _addresses()[0]
        os.kill(_listener(victim), signal.SIGKILL)
        return await analysis

    victim = _addresses()[0]
    assert asyncio.run(with_a_kill()) == before
    _wait_for_visions(2, gone=victim)
    assert asyncio.run(_verdicts(address, pictures)) == before


def _listener(address: str) -> int:
    """The process that listens at an address."""
    import psutil

    port = int(address.rpartition(":")[2])
    found = [c.pid for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == port]
    return int(found[0])


@pytest.mark.parametrize(("loads", "replicas"), [([0.0, 0.0], 1), ([6.0, 6.0], 3), ([4.1], 2)])
def test_replicas_follow_the_load(loads: list[float], replicas: int) -> None:
    context: Any = SimpleNamespace(aggregated_metrics={"items_per_replica": dict(enumerate(loads))})
    assert ByLoad(target=4.0)(context)[0] == replicas
