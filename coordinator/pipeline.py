"""One picture from its bytes to its report: the single path behind Analyze and AnalyzeStream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

from coordinator.backends.fair_queue import ANYBODY, Turn
from coordinator.backends.pool import Pool
from coordinator.cache import CacheKey, ReportCache, replay
from coordinator.convert import to_case, to_evidence
from coordinator.explanation import picture_reading, prompt, second_look
from coordinator.explanation.explainer import Explainer
from coordinator.fusion import FusionModel, fuse
from coordinator.llm_client import LlmClient
from coordinator.metrics import CoordinatorMetrics
from coordinator.opinions import Asking, Opinions, OpinionStage
from coordinator.report import ToolEvidence, add_opinions, make_report, verdict_reached
from coordinator.timings import Phases
from coordinator.vision_client import Picture, VisionClient
from coordinator.vision_stage import Look
from maifs.common.v1 import finding_pb2
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from maifs.vision.v1 import vision_pb2
from serving import __version__
from serving.tracing import span

_PROMPT_VERSIONS = f"{prompt.PROMPT_VERSION} {second_look.PROMPT_VERSION} {picture_reading.PROMPT_VERSION}"
DEADLINE_RESERVE_S = 0.25
"""Kept back from a client's deadline, so that the report still reaches it when the language model is slow."""


@dataclass(frozen=True)
class Options:
    """How to analyse one picture."""

    skip_llm: bool = False
    llm_timeout_s: float = 0.0
    """0: the service's setting."""
    llm_wait_s: float = 0.0
    """Seconds to wait for a language model that is still loading."""
    language: str = ""
    """Empty: the service's setting."""
    deadline: float = math.inf
    """Moment by the event loop's clock at which the client gives up."""
    turn: Turn = ANYBODY
    """For whom."""
    skip_cache: bool = False
    """Analyse again even when there is a report."""


class Pipeline:
    """Pictures in, events out. Many run at a time; each holds its encoded bytes and nothing decoded."""

    def __init__(
        self,
        vision: Pool[VisionClient],
        llm: Pool[LlmClient] | None,
        explainers: Mapping[str, Explainer],
        model: FusionModel,
        cache: ReportCache,
        opinions: OpinionStage | None,
        *,
        item_timeout_s: float,
        metrics: CoordinatorMetrics,
        policy: str = "",
    ) -> None:
        """Puts the stages together.

        Args:
            vision: the vision services.
            llm: the language models; None: there are none.
            explainers: by language; under "" that of the service's setting.
            model: weights and policy of the verdict.
            cache: reports made before.
            opinions: asks the language models for opinions; None: none are asked for.
            item_timeout_s: most seconds at the vision service for one picture.
            metrics: counts reports.
            policy: settings that change reports, for the cache.
        """
        self._vision, self._llm, self._explainers, self._model = vision, llm, explainers, model
        self._cache, self._opinions, self._item_timeout_s = cache, opinions, item_timeout_s
        self._metrics = metrics
        self._policy = f"{__version__} {model.id} {model.prior} {_PROMPT_VERSIONS} {policy}"

    @property
    def waiting(self) -> int:
        """Pictures that wait for their turn at the vision service."""
        return self._vision.waiting

    async def analyze(self, picture: Picture, options: Options) -> AsyncIterator[coordinator_pb2.ItemEvent]:
        """Events of one picture: tool results as the tools end, the verdict, then the report.

        Raises:
            MaifsError: when there can be no report: the picture's own fault or the vision service's.
        """
        digest = b""
        if self._cache.max_bytes:
            digest = picture.sha256 or await asyncio.to_thread(picture.encoded.sha256)
            known = None if options.skip_cache else await self._find(digest, options)
            if not options.skip_cache:
                self._metrics.looked_up(hit=known is not None)
            if known is not None:
                self._metrics.reported(known, len(picture.encoded), cached=True)
                for event in replay(known, picture):
                    yield event
                return
        with span("picture", size_bytes=len(picture.encoded)):
            async for event in self._make(picture, digest, options):
                yield event

    async def _find(self, digest: bytes, options: Options) -> report_pb2.Report | None:
        for vision in self._vision.identities():
            for llm in self._llm.identities() if self._llm and not options.skip_llm else {""}:
                report = await self._cache.find(self._key(digest, vision, llm, options))
                if report is not None:
                    return report
        return None

    def _key(self, digest: bytes, vision: str, llm: str, options: Options) -> CacheKey:
        return CacheKey(digest, vision, llm, self._policy, self._explainers[options.language].language)

    async def _make(
        self, picture: Picture, digest: bytes, options: Options
    ) -> AsyncIterator[coordinator_pb2.ItemEvent]:
        phases = Phases()
        explainer = self._explainers[options.language]
        warming = [] if options.skip_llm else explainer.warm()
        opinions = self._begin_opinions(picture, explainer.language, options)
        try:
            evidence = ToolEvidence()
            async for result in self._look(picture, options, phases, evidence):
                yield coordinator_pb2.ItemEvent(tool_result=result)
            found = to_evidence(evidence.in_order())
            with phases.measure("fusion"):
                fusion = fuse(found, self._model)
            case = to_case(evidence.final.image, evidence.in_order(), fusion)
            if opinions:
                fusion = fuse(found, self._model, await opinions.that_count(case))
                case = replace(case, fusion=fusion)
            yield verdict_reached(fusion)
            with phases.measure("explanation"), span("explanation"):
                explained = await explainer.explain(
                    case,
                    skip_llm=options.skip_llm,
                    timeout_s=options.llm_timeout_s,
                    wait_s=options.llm_wait_s,
                    deadline=options.deadline - DEADLINE_RESERVE_S,
                    turn=options.turn,
                )
            report = make_report(picture, evidence, fusion, explained)
            if opinions and opinions.asked:
                with phases.measure("opinions"):
                    add_opinions(report, *await opinions.all(), self._model)
        finally:
            if opinions:
                opinions.close()
        for task in warming:
            if task.done() and not task.cancelled() and task.result() >= 0:
                phases.add("prefix_warm", task.result())
        failed = explained.error.reason if explained.error else None
        self._metrics.explained(failed, by_model=bool(explained.explanation.model))
        report.timings.extend(phases.merged(evidence.final.timings))
        if digest and evidence.identity:
            self._cache.add(self._key(digest, evidence.identity, explained.identity, options), report)
        self._metrics.reported(report, len(picture.encoded), cached=False)
        yield coordinator_pb2.ItemEvent(report=report)

    def _begin_opinions(self, picture: Picture, language: str, options: Options) -> Opinions | None:
        if self._opinions is None or options.skip_llm:
            return None
        deadline = options.deadline - DEADLINE_RESERVE_S
        return self._opinions.begin(
            picture.encoded, Asking(language, options.turn, options.llm_timeout_s, options.llm_wait_s, deadline)
        )

    async def _look(
        self, picture: Picture, options: Options, phases: Phases, evidence: ToolEvidence
    ) -> AsyncIterator[finding_pb2.ToolResult]:
        """Tool results as the tools end; what the vision service says is collected in `evidence`."""
        look = Look(
            self._vision, picture, options.turn, phases, timeout_s=self._item_timeout_s, deadline=options.deadline
        )
        try:
            async for event in look.events():
                if isinstance(event, vision_pb2.VisionResult):
                    evidence.final = event
                    evidence.results |= {result.tool: result for result in event.tool_results}
                else:
                    evidence.results[event.tool] = event
                    yield event
        finally:
            if look.resent:
                self._metrics.resent()
        evidence.identity = look.identity
