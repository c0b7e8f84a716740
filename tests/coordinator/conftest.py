"""A coordinator between simulated backends, all on UNIX sockets."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import aio as health_aio

from coordinator.config import CoordinatorConfig
from coordinator.service import CoordinatorService
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from maifs.llm.v1 import llm_pb2_grpc
from maifs.vision.v1 import vision_pb2_grpc
from serving.channel import open_channel
from serving.server import ServerConfig
from tests.coordinator.simulated import SimulatedLlm, SimulatedVision, start_server

Request = coordinator_pb2.AnalyzeStreamRequest


@dataclass
class World:
    """Three services and a client."""

    folder: Path
    config: CoordinatorConfig
    vision: SimulatedVision = field(default_factory=SimulatedVision)
    llm: SimulatedLlm = field(default_factory=SimulatedLlm)
    servers: dict[str, grpc.aio.Server] = field(default_factory=dict)
    llm_health: health_aio.HealthServicer = field(default_factory=health_aio.HealthServicer)
    service: CoordinatorService | None = None
    channel: grpc.aio.Channel | None = None
    killing: asyncio.Future[None] | None = None
    """A stop of a server under way."""

    async def start(self, *, vision: bool = True, llm: bool = True) -> None:
        if vision:
            await self.start_vision()
        if llm:
            await self.start_llm()
        self.service = CoordinatorService(self.config)
        self.servers["coordinator"] = await start_server(
            self.config.server.address, self.service.register, self.service.grpc_names
        )
        await self.service.start()
        self.channel = open_channel(self.config.server.address)

    async def start_vision(self) -> None:
        self.servers["vision"] = await start_server(
            self.config.vision_address[0],
            lambda server: vision_pb2_grpc.add_VisionServiceServicer_to_server(self.vision, server),
            ("maifs.vision.v1.VisionService",),
        )

    async def start_llm(self) -> None:
        self.servers["llm"] = await start_server(
            self.config.llm_address[0],
            lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(self.llm, server),
            ("maifs.llm.v1.LlmService",),
            self.llm_health,
        )

    async def set_llm_health(self, *, serving: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        await self.llm_health.set("", status)

    async def stop(self, name: str) -> None:
        await self.servers.pop(name).stop(0)

    @property
    def stub(self) -> Any:
        assert self.channel is not None
        return coordinator_pb2_grpc.CoordinatorServiceStub(self.channel)

    async def analyze(
        self, data: bytes = b"picture", *, timeout_s: float = 20, file_name: str = "a.jpg", **options: Any
    ) -> list[coordinator_pb2.ItemEvent]:
        """Events of one unary call."""
        request = coordinator_pb2.AnalyzeRequest(
            image=image_pb2.Image(data=data, file_name=file_name),
            options=coordinator_pb2.AnalyzeOptions(**options),
        )
        return [response.event async for response in self.stub.Analyze(request, timeout=timeout_s)]

    async def stream(
        self, requests: Sequence[Request], timeout_s: float | None = 20
    ) -> list[coordinator_pb2.AnalyzeStreamResponse]:
        """Responses of one stream."""

        async def send() -> AsyncIterator[Request]:
            for request in requests:
                yield request

        return [response async for response in self.stub.AnalyzeStream(send(), timeout=timeout_s)]

    async def close(self) -> None:
        if self.channel:
            await self.channel.close()
        for server in self.servers.values():
            await server.stop(0)
        if self.service:
            await self.service.stop()
        self.service, self.channel, self.servers = None, None, {}


def item(item_id: str, data: bytes = b"picture", **begin: Any) -> list[Request]:
    """A whole item: begin with the data inline, end."""
    opening = image_pb2.BeginItem(size_bytes=len(data), data=data, **begin)
    return [Request(item_id=item_id, begin=opening), Request(item_id=item_id, end=image_pb2.EndItem())]


def kinds(events: Sequence[coordinator_pb2.ItemEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


def has_retry_info(status: status_pb2.Status) -> bool:
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)


@pytest.fixture
async def make_world() -> AsyncIterator[Callable[..., World]]:
    worlds: list[World] = []
    folder = Path(tempfile.mkdtemp(prefix="maifs-", dir="/tmp"))

    def make(**settings: Any) -> World:
        base = CoordinatorConfig(
            server=ServerConfig(f"unix:{folder}/c.sock"),
            vision_address=(f"unix:{folder}/v.sock",),
            llm_address=(f"unix:{folder}/l.sock",),
            cache_bytes=0,
            second_look=False,
        )
        world = World(folder, replace(base, **settings))
        worlds.append(world)
        return world

    yield make
    for world in worlds:
        await world.close()
    shutil.rmtree(folder)


@pytest.fixture
async def world(make_world: Callable[..., World]) -> World:
    world = make_world()
    await world.start()
    return world
