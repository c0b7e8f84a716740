"""The coordinator as `serving.server.serve` runs it."""

from __future__ import annotations

import asyncio
import logging

import grpc

from coordinator.config import LANGUAGES, CoordinatorConfig
from coordinator.explanation.catalogue import load_catalogue
from coordinator.explanation.explainer import Explainer
from coordinator.fusion import FusionModel
from coordinator.llm_client import LlmClient
from coordinator.pipeline import Pipeline
from coordinator.servicer import CoordinatorServicer
from coordinator.vision_client import VisionClient
from maifs.coordinator.v1 import coordinator_pb2_grpc
from serving.errors import MaifsError

_log = logging.getLogger(__name__)


class CoordinatorService:
    """Pictures in, reports out, over two backends. Neither needs to be up when it starts."""

    grpc_names = ("maifs.coordinator.v1.CoordinatorService",)

    def __init__(self, config: CoordinatorConfig) -> None:
        """Reads fusion model, catalogue and prompts.

        Raises:
            MaifsError: INVALID_CONFIG when the fusion file cannot be used.
        """
        self._config = config
        self._model = FusionModel.load(config.fusion_file, config.prior.posterior())
        self._vision: VisionClient | None = None
        self._llm: LlmClient | None = None
        self._explainers: dict[str, Explainer] = {}

    def register(self, server: grpc.aio.Server) -> None:
        """See serving.server.Service."""
        config = self._config
        self._vision = VisionClient(config.vision_address)
        self._llm = LlmClient(config.llm_address) if config.llm_address else None
        slots = asyncio.Semaphore(config.llm_concurrency)
        self._explainers = {
            language: Explainer(
                load_catalogue(language),
                self._llm,
                timeout_s=config.llm_timeout_s,
                slots=slots,
                max_tokens=config.llm_max_tokens,
            )
            for language in LANGUAGES
        }
        pipeline = Pipeline(
            self._vision,
            {**self._explainers, "": self._explainers[config.language]},
            self._model,
            item_timeout_s=config.item_timeout_s,
            vision_concurrency=config.vision_concurrency,
        )
        servicer = CoordinatorServicer(pipeline, self._vision, self._llm, config)
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    async def start(self) -> None:
        """Logs what it works with. The backends are found when they come."""
        _log.info(
            "ready",
            extra={
                "vision": self._config.vision_address,
                "llm": self._config.llm_address or "none",
                "fusion": self._model.id,
            },
        )

    async def wait_failed(self) -> MaifsError:
        """Never returns: a lost backend is an item's matter, not the service's end."""
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        """See serving.server.Service."""
        for explainer in self._explainers.values():
            await explainer.close()
        if self._llm:
            await self._llm.close()
        if self._vision:
            await self._vision.close()
