"""The coordinator as `serving.server.serve` runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import grpc

from coordinator.admission import Admission
from coordinator.backends.backend import Backend, C
from coordinator.backends.pool import Pool
from coordinator.cache import ReportCache
from coordinator.cache_store import CacheStore
from coordinator.config import LANGUAGES, CoordinatorConfig
from coordinator.explanation.catalogue import load_catalogue
from coordinator.explanation.explainer import Explainer
from coordinator.explanation.model import Model
from coordinator.fusion import FusionModel
from coordinator.journal.batches import Batches
from coordinator.journal.journal import Journal, JournalSettings
from coordinator.journal.runner import BatchRunner
from coordinator.journal.servicer import BatchServicer
from coordinator.llm_client import LlmClient
from coordinator.opinions import OpinionStage
from coordinator.pipeline import Pipeline
from coordinator.servicer import CoordinatorServicer, to_options
from coordinator.vision_client import Picture, VisionClient
from maifs.coordinator.v1 import batch_pb2_grpc, coordinator_pb2, coordinator_pb2_grpc
from serving.errors import MaifsError
from serving.item_stream import ItemLimits

_log = logging.getLogger(__name__)


class CoordinatorService:
    """Pictures in, reports out, over two backends. Neither needs to be up when it starts."""

    grpc_names = ("maifs.coordinator.v1.CoordinatorService", "maifs.coordinator.v1.BatchService")

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
        self._batches: Batches | None = None
        self._cache: ReportCache | None = None

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
        self._cache = cache = _cache(config)
        pipeline = Pipeline(
            self.vision,
            self.llm,
            {**self._explainers, "": self._explainers[config.language]},
            self._model,
            cache,
            self._opinion_stage(),
            item_timeout_s=config.item_timeout_s,
            policy=f"{config.llm_max_tokens} {config.second_look} {config.picture_reading}",
        )
        admission = Admission(config.max_held_bytes, config.max_held_items)
        servicer = CoordinatorServicer(pipeline, self.vision, self.llm, cache, admission, config)
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)
        self._batches = _batches(config, pipeline, self.vision, admission)
        batch_servicer = BatchServicer(
            self._batches,
            ItemLimits(config.max_image_bytes, config.max_open_items),
            lambda options: to_options(options, client=""),
        )
        batch_pb2_grpc.add_BatchServiceServicer_to_server(batch_servicer, server)

    def _opinion_stage(self) -> OpinionStage | None:
        if self.llm is None:
            return None
        return OpinionStage(
            Model(self.llm, self._config.llm_timeout_s),
            self._model,
            {language: load_catalogue(language) for language in LANGUAGES},
            second_look=self._config.second_look,
            picture_reading=self._config.picture_reading,
        )

    def _backend(self, client: C, capacity: int, *, refuse: bool = False) -> Backend[C]:
        return Backend(client, capacity, max_timeouts=self._config.max_timeouts, refuse_when_hung=refuse)

    async def start(self) -> None:
        """Begins to follow the backends, which are found when they come, and goes on with the batches of the journal.

        Raises:
            MaifsError: JOURNAL_UNUSABLE.
        """
        for pool in (self.vision, self.llm):
            if pool:
                pool.start()
        if self._batches:
            await self._batches.start()
        _log.info(
            "ready",
            extra={
                "vision": ", ".join(self._config.vision_address),
                "llm": ", ".join(self._config.llm_address) or "none",
                "fusion": self._model.id,
                "batches": str(self._config.state_folder or "none: no state_folder is set"),
            },
        )

    def drain(self) -> None:
        """See serving.server.Draining: those who watch a batch would wait for its end."""
        if self._batches:
            self._batches.journal.watches.close()

    async def wait_failed(self) -> MaifsError:
        """Never returns: a lost backend is an item's matter, not the service's end."""
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        """See serving.server.Service."""
        if self._batches:
            await self._batches.stop()
        for explainer in self._explainers.values():
            await explainer.close()
        if self.llm:
            await self.llm.close()
        if self.vision:
            await self.vision.close()
        if self._cache:
            await self._cache.close()


def _cache(config: CoordinatorConfig) -> ReportCache:
    store = None
    if config.state_folder and config.cache_bytes and config.cache_disk_bytes:
        store = CacheStore(config.state_folder, config.cache_disk_bytes)
    return ReportCache(config.cache_bytes, store)


def _batches(
    config: CoordinatorConfig, pipeline: Pipeline, vision: Pool[VisionClient], admission: Admission
) -> Batches | None:
    if config.state_folder is None:
        return None

    def analyze(
        picture: Picture, options: coordinator_pb2.AnalyzeOptions, batch_id: str
    ) -> AsyncIterator[coordinator_pb2.ItemEvent]:
        turn = coordinator_pb2.AnalyzeOptions()
        turn.CopyFrom(options)
        turn.priority = options.priority or coordinator_pb2.PRIORITY_BATCH
        return pipeline.analyze(picture, to_options(turn, client=f"batch {batch_id}"))

    settings = JournalSettings(config.state_folder, config.max_spool_bytes, config.batch_retention_s)
    journal = Journal(settings)
    runner = BatchRunner(
        journal,
        analyze,
        lambda: any(backend.tier == 0 for backend in vision.backends),
        admission.share("batches"),
        concurrency=config.batch_concurrency,
        max_image_bytes=config.max_image_bytes,
    )
    return Batches(journal, runner)
