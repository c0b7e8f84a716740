"""Configuration, status and life of the service."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.__main__ import main
from coordinator.config import CoordinatorConfig, PriorConfig
from maifs.coordinator.v1 import coordinator_pb2, coordinator_pb2_grpc
from serving.channel import open_channel
from serving.config import load_config
from serving.errors import ExitCode, MaifsError
from serving.item_stream import Item
from tests.coordinator.conftest import World, item

Status = coordinator_pb2.GetStatusResponse


async def status_of(world: World) -> Status:
    response: Status = await world.stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10)
    return response


class TestStatus:
    async def test_describes_both_backends(self, world: World) -> None:
        vision, llm = (await status_of(world)).backends
        assert (vision.name, llm.name) == ("vision", "llm")
        assert vision.state == llm.state == coordinator_pb2.BACKEND_STATE_SERVING
        assert "frequency 1.0.0" in vision.description
        assert list(vision.devices) == ["cpu"]
        assert "simulated-1b" in llm.description
        assert (vision.address,) == world.config.vision_address

    async def test_says_which_backend_cannot_be_reached_and_which_is_not_configured(
        self, make_world: Callable[..., World]
    ) -> None:
        world = make_world(llm_address=())
        await world.start(vision=False, llm=False)
        vision, llm = (await status_of(world)).backends
        assert vision.state == coordinator_pb2.BACKEND_STATE_UNREACHABLE
        assert vision.reason
        assert llm.state == coordinator_pb2.BACKEND_STATE_DISABLED

    async def test_counts_pictures_and_tells_its_limits(self, make_world: Callable[..., World]) -> None:
        world = make_world(max_image_bytes=1000, max_held_bytes=2000, max_open_items=3)
        go_on = asyncio.Event()

        async def wait(_: Item, attempt: int) -> None:
            await go_on.wait()

        await world.start()
        await world.analyze()
        world.vision.before_tools = wait
        running = asyncio.ensure_future(world.stream(item("a", bytes(500))))
        async with asyncio.timeout(5):
            while len(world.vision.items) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        status = await status_of(world)
        assert (status.open_items_count, status.held_bytes, status.completed_items_count) == (1, 500, 1)
        assert status.limits.max_image_bytes == 1000
        assert status.limits.max_items_per_stream_count == 3
        assert status.limits.max_held_bytes == 2000
        go_on.set()
        await running
        await world.stream(item("b", bytes(1001)))
        status = await status_of(world)
        assert (status.open_items_count, status.held_bytes) == (0, 0)
        assert (status.completed_items_count, status.failed_items_count) == (2, 1)
        assert status.uptime_seconds > 0

    async def test_a_call_that_broke_leaves_nothing_open(self, world: World) -> None:
        async def hang(_: Item, attempt: int) -> None:
            await asyncio.sleep(30)

        world.vision.before_tools = hang
        call = world.stub.AnalyzeStream(timeout=20)
        for request in item("a"):
            await call.write(request)
        async with asyncio.timeout(5):
            while not world.vision.items:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        call.cancel()
        async with asyncio.timeout(5):
            while (await status_of(world)).open_items_count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert (await status_of(world)).held_bytes == 0


class TestConfig:
    def test_defaults_are_sound(self) -> None:
        config = load_config(CoordinatorConfig, "coordinator", environ={})
        assert config.server.address == "unix:/run/maifs/coordinator.sock"
        assert config.prior.posterior() is None

    def test_all_faults_are_told_together(self) -> None:
        with pytest.raises(MaifsError) as caught:
            load_config(
                CoordinatorConfig,
                "coordinator",
                environ={
                    "MAIFS_COORDINATOR_LANGUAGE": "fr",
                    "MAIFS_COORDINATOR_ITEM_TIMEOUT_S": "-1",
                    "MAIFS_COORDINATOR_LLM_TIMEOUT_S": "nan",
                    "MAIFS_COORDINATOR_MAX_HELD_BYTES": "1",
                    "MAIFS_COORDINATOR_VISION_CONCURRENCY": "0",
                    "MAIFS_COORDINATOR_VISION_ADDRESS": "",
                },
            )
        for name in (
            "language",
            "item_timeout_s",
            "llm_timeout_s",
            "max_held_bytes",
            "vision_concurrency",
            "vision_addr",
        ):
            assert name in caught.value.message

    @pytest.mark.parametrize(
        ("prior", "sound"),
        [((0.6, 0.2, 0.2), True), ((0.6, 0.2, None), False), ((0.6, 0.2, 0.3), False), ((1.0, 0.0, 0.0), False)],
    )
    def test_a_prior_has_three_parts_that_add_up_to_1(
        self, prior: tuple[float | None, float | None, float | None], sound: bool
    ) -> None:
        assert bool(PriorConfig(*prior).faults()) is not sound

    async def test_the_prior_in_force_is_in_the_report(self, make_world: Callable[..., World]) -> None:
        world = make_world(prior=PriorConfig(0.5, 0.4, 0.1))
        await world.start()
        prior = (await world.analyze(skip_llm=True))[-1].report.fusion.prior
        assert (prior.authentic, prior.manipulated, prior.ai_generated) == (0.5, 0.4, 0.1)

    async def test_reports_come_in_the_language_set(self, make_world: Callable[..., World]) -> None:
        world = make_world(language="ko")
        await world.start()
        report = (await world.analyze())[-1].report
        assert all(any("가" <= c <= "힣" for c in s.text) for s in report.explanation.summary)
        assert report.explanation.dropped_sentences_count == report.explanation.model_sentences_count > 0

    def test_print_config(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--print-config", "--set", "language=ko"]) == ExitCode.OK
        printed = capsys.readouterr().out
        assert "[coordinator]" in printed
        assert 'language = "ko"' in printed

    def test_a_fusion_file_that_is_not_there_is_a_matter_of_configuration(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--set", f"fusion_file={tmp_path}/none.json"]) == ExitCode.USAGE
        assert "none.json" in capsys.readouterr().err


async def test_a_real_process_serves_without_its_backends_and_drains_on_sigterm(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    address = world.config.server.address
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "coordinator", "--address", address, "--set", f"vision_address={world.config.vision_address[0]}"),
        *("--set", "llm_address="),
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        stderr=asyncio.subprocess.DEVNULL,
    )
    channel = open_channel(address)
    try:
        request = health_pb2.HealthCheckRequest(service="maifs.coordinator.v1.CoordinatorService")
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(request, wait_for_ready=True, timeout=30)
        async with asyncio.timeout(20):
            while answer.status != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.05)
                answer = await health.Check(request)
        stub: coordinator_pb2_grpc.CoordinatorServiceAsyncStub = coordinator_pb2_grpc.CoordinatorServiceStub(channel)
        status = await stub.GetStatus(coordinator_pb2.GetStatusRequest(), timeout=10)
        assert status.backends[0].state == coordinator_pb2.BACKEND_STATE_UNREACHABLE
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == ExitCode.OK
    finally:
        await channel.close()
        if process.returncode is None:
            process.kill()
