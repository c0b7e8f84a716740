"""The vision service as `serving.server.serve` runs it."""

from __future__ import annotations

import asyncio
import io
import logging

import grpc
import numpy as np
import torch
from PIL import Image

from maifs.vision.v1 import vision_pb2_grpc
from serving.errors import MaifsError, Reason
from vision_service.analyzer import Analysis, Analyzer
from vision_service.calibration import Calibration
from vision_service.config import VisionConfig
from vision_service.device import choose_device, describe_device
from vision_service.domain import Outcome, Tool, ToolName
from vision_service.learned.plugins import load_plugins, with_plugins
from vision_service.memory import MemoryBudget, limit_device
from vision_service.metrics import VisionMetrics
from vision_service.servicer import VisionServicer
from vision_service.tools import TOOLS
from vision_service.tools.watermark import make_tool
from vision_service.tools.watermark.payloads import parse_owned
from vision_service.tools.watermark.trust import load_trust_anchors

_log = logging.getLogger(__name__)


class VisionService:
    """Four tools on one device."""

    grpc_names = ("maifs.vision.v1.VisionService",)

    def __init__(self, config: VisionConfig) -> None:
        device = choose_device(config.device)
        torch.set_num_threads(1)  # the workers are the parallelism; nested pools fight over the same cores
        memory = MemoryBudget(config.memory_budget_mib * 2**20)
        limit_device(device, memory.limit_bytes)
        plugins = load_plugins(config.plugins_dir, device) if config.plugins_dir else ()
        tools, calibration = with_plugins(tools_of(config), Calibration.load(config.calibration_file), plugins)
        for card in (plugin.card for plugin in plugins):
            known = {"test": card.test_id, "version": card.version, "calibrated": bool(card.calibration)}
            _log.info("plug-in", extra=known)
        self._analyzer = Analyzer(
            config.limits, device, config.workers, config.max_queued_items, calibration, memory, tools
        )
        self._config = config
        self.metrics = VisionMetrics()

    def register(self, server: grpc.aio.Server) -> None:
        """See serving.server.Service."""
        servicer = VisionServicer(self._analyzer, self._config, self.metrics)
        vision_pb2_grpc.add_VisionServiceServicer_to_server(servicer, server)

    async def start(self) -> None:
        """Passes a picture through all tools: imports, kernels and caches are warm before the first client comes.

        Raises:
            MaifsError: INTERNAL when a test fails on it.
        """
        async for event in self._analyzer.analyze(await asyncio.to_thread(_warm_up_picture)):
            if isinstance(event, Analysis):
                broken = [
                    f"{finding.id}: {finding.observation.reason}"
                    for result in event.results
                    for finding in result.findings
                    if finding.observation.outcome is Outcome.FAILED
                ]
                if broken:
                    raise MaifsError(Reason.INTERNAL, f"The warm-up picture broke {'; '.join(broken)}.")
                seconds = round(event.timings_s["total"], 2)
                _log.info("warm", extra={"device": describe_device(self._analyzer.device), "seconds": seconds})

    async def wait_failed(self) -> MaifsError:
        """Never returns: the tools have no state that could break for good."""
        await asyncio.Event().wait()
        raise AssertionError

    async def check_alive(self) -> None:
        """See serving.server.Watched: a thread that hangs takes its worker with it for good."""
        seconds = self._analyzer.longest_work_s
        if seconds > self._config.hung_after_s:
            raise MaifsError(Reason.INTERNAL, f"A worker thread has been busy with one step for {seconds:.0f} s.")

    async def stop(self) -> None:
        """See serving.server.Service."""
        await asyncio.to_thread(self._analyzer.close)


def tools_of(config: VisionConfig) -> tuple[Tool, ...]:
    """The four tools, that of watermarks with the configured trust list and payloads."""
    anchors = load_trust_anchors(config.trust_anchors_file) if config.trust_anchors_file else ""
    watermark = make_tool(anchors, tuple(parse_owned(entry) for entry in config.rivagan_payloads))
    return tuple(watermark if tool.name is ToolName.WATERMARK else tool for tool in TOOLS)


def _warm_up_picture() -> bytes:
    """A textured JPEG of 512 x 512."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC)
    noisy = np.asarray(image, dtype=np.float32) + rng.normal(0, 3, (512, 512, 3))
    buffer = io.BytesIO()
    Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
