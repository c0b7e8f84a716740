"""The coordinator as `serving.server.serve` runs it."""

from __future__ import annotations

import asyncio
import logging

import grpc

from coordinator.backends.backend import Backend, C
from coordinator.backends.pool import Pool
from coordinator.cache import ReportCache
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
        self.vision: Pool[VisionClient] | None = None
        self.llm: Pool[LlmClient] | None = None
        self._explainers: dict[str, Explainer] = {}

    def register(self, server: grpc.aio.Server) -> None:
        """See serving.server.Service."""
        config = self._config
        self.vision = Pool(
            "The vision service",
            [self._backend(VisionClient(a), config.vision_concurrency) for a in config.vision_address],
        )
        if config.llm_address:
            self.llm = Pool(
                "The language-model service",
                [self._backend(LlmClient(a), config.llm_concurrency, refuse=True) for a in config.llm_address],
            )
        self._explainers = {
            language: Explainer(
                load_catalogue(language), self.llm, timeout_s=config.llm_timeout_s, max_tokens=config.llm_max_tokens
            )
            for language in LANGUAGES
        }
        cache = ReportCache(config.cache_bytes)
        pipeline = Pipeline(
            self.vision,
            self.llm,
            {**self._explainers, "": self._explainers[config.language]},
            self._model,
            cache,
            item_timeout_s=config.item_timeout_s,
            policy=f"llm_max_tokens={config.llm_max_tokens}",
        )
        servicer = CoordinatorServicer(pipeline, self.vision, self.llm, cache, config)
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)

    def _backend(self, client: C, capacity: int, *, refuse: bool = False) -> Backend[C]:
        return Backend(client, capacity, max_timeouts=self._config.max_timeouts, refuse_when_hung=refuse)

    async def start(self) -> None:
        """Begins to follow the backends, which are found when they come."""
        for pool in (self.vision, self.llm):
            if pool:
                pool.start()
        _log.info(
            "ready",
            extra={
                "vision": ", ".join(self._config.vision_address),
                "llm": ", ".join(self._config.llm_address) or "none",
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
        if self.llm:
            await self.llm.close()
        if self.vision:
            await self.vision.close()
