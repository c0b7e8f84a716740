"""The coordinator as `serving.server.serve` runs it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc

from coordinator.admission import Admission
from coordinator.backends.addresses import follow, read_addresses
from coordinator.backends.backend import Backend, C, cancelled
from coordinator.backends.pool import Pool
from coordinator.cache import ReportCache
from coordinator.cache_store import CacheStore
from coordinator.config import LANGUAGES, CoordinatorConfig
from coordinator.counters import Counters
from coordinator.explanation.catalogue import load_catalogue
from coordinator.explanation.explainer import Explainer
from coordinator.explanation.model import Model
from coordinator.fusion import FusionModel
from coordinator.journal.batches import Batches
from coordinator.journal.journal import Journal, JournalSettings
from coordinator.journal.runner import BatchRunner
from coordinator.journal.servicer import BatchServicer
from coordinator.llm_client import LlmClient
from coordinator.metrics import CoordinatorMetrics
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
        self.metrics = CoordinatorMetrics()
        self._model = FusionModel.load(config.fusion_file, config.prior.posterior())
        self.vision: Pool[VisionClient] | None = None
        self.llm: Pool[LlmClient] | None = None
        self._following: list[asyncio.Task[None]] = []
        self._explainers: dict[str, Explainer] = {}
        self._batches: Batches | None = None
        self._cache: ReportCache | None = None

    def register(self, server: grpc.aio.Server) -> None:
        """See serving.server.Service."""
        config = self._config
        visions = () if config.vision_addresses_file else config.vision_address
        self.vision = Pool("The vision service", [self._vision_backend(address) for address in visions])
        llms = () if config.llm_addresses_file else config.llm_address
        if llms or config.llm_addresses_file:
            self.llm = Pool("The language-model service", [self._llm_backend(address) for address in llms])
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
            metrics=self.metrics,
            policy=f"{config.llm_max_tokens} {config.second_look} {config.picture_reading}",
        )
        admission = Admission(config.max_held_bytes, config.max_held_items)
        counters = Counters(self.metrics)
        self._batches = _batches(config, pipeline, self.vision, admission, counters)
        servicer = CoordinatorServicer(
            pipeline, self.vision, self.llm, cache, admission, config, counters, self._batches
        )
        coordinator_pb2_grpc.add_CoordinatorServiceServicer_to_server(servicer, server)
        batch_servicer = BatchServicer(
            self._batches,
            ItemLimits(config.max_image_bytes, config.max_open_items),
            lambda options: to_options(options, client=""),
        )
        batch_pb2_grpc.add_BatchServiceServicer_to_server(batch_servicer, server)
        self._show(admission, cache)

    def _show(self, admission: Admission, cache: ReportCache) -> None:
        """Makes the metrics tell the state."""
        states = self.metrics.states

        async def look() -> None:
            states.forget_backends()
            for name, pool in (("vision", self.vision), ("llm", self.llm)):
                if pool:
                    states.look_at_pool(name, pool)
            states.look_at_memory(admission, cache)
            if self._batches:
                await states.look_at_journal(self._batches)

        self.metrics.on_look.append(look)

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

    def _vision_backend(self, address: str) -> Backend[VisionClient]:
        config = self._config
        client = VisionClient(address, config.vision_channel)
        return Backend(client, config.vision_concurrency, max_timeouts=config.max_timeouts, refuse_when_hung=False)

    def _llm_backend(self, address: str) -> Backend[LlmClient]:
        config = self._config
        client = LlmClient(address, config.llm_channel)
        return Backend(client, config.llm_concurrency, max_timeouts=config.max_timeouts, refuse_when_hung=True)

    async def start(self) -> None:
        """Begins to follow the backends, which are found when they come, and goes on with the batches of the journal.

        Raises:
            MaifsError: JOURNAL_UNUSABLE; INVALID_CONFIG when a file of addresses cannot be used.
        """
        config = self._config
        for pool in (self.vision, self.llm):
            if pool:
                pool.start()
        if self.vision and config.vision_addresses_file:
            await self._follow(config.vision_addresses_file, self.vision, self._vision_backend)
        if self.llm and config.llm_addresses_file:
            await self._follow(config.llm_addresses_file, self.llm, self._llm_backend)
        if self._batches:
            await self._batches.start()
        _log.info(
            "ready",
            extra={
                "vision": str(config.vision_addresses_file or ", ".join(config.vision_address)),
                "llm": str(config.llm_addresses_file or ", ".join(config.llm_address) or "none"),
                "fusion": self._model.id,
                "batches": str(config.state_folder or "none: no state_folder is set"),
            },
        )

    async def _follow(self, file: Path, pool: Pool[C], make: Callable[[str], Backend[C]]) -> None:
        pool.replace(await asyncio.to_thread(read_addresses, file), make)
        self._following.append(asyncio.ensure_future(follow(file, pool, make)))

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
        for task in self._following:
            await cancelled(task)
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
    config: CoordinatorConfig,
    pipeline: Pipeline,
    vision: Pool[VisionClient],
    admission: Admission,
    counters: Counters,
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
        counters=counters,
        on_failed=counters.metrics.failed,
    )
    return Batches(journal, runner)
