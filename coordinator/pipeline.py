"""One picture from its bytes to its report: the single path behind Analyze and AnalyzeStream."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from coordinator.backends.fair_queue import ANYBODY, Turn
from coordinator.backends.pool import Pool
from coordinator.cache import CacheKey, ReportCache, replay
from coordinator.convert import to_case, to_evidence
from coordinator.explanation.explainer import Explainer
from coordinator.explanation.prompt import PROMPT_VERSION
from coordinator.fusion import FusionModel, fuse
from coordinator.llm_client import LlmClient
from coordinator.report import ToolEvidence, make_report, verdict_reached
from coordinator.timings import Phases
from coordinator.vision_client import Picture, VisionClient
from coordinator.vision_stage import Look
from maifs.coordinator.v1 import coordinator_pb2, report_pb2
from maifs.vision.v1 import vision_pb2
from serving import __version__

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
        *,
        item_timeout_s: float,
        policy: str = "",
    ) -> None:
        """Puts the stages together.

        Args:
            vision: the vision services.
            llm: the language models; None: there are none.
            explainers: by language; under "" that of the service's setting.
            model: weights and policy of the verdict.
            cache: reports made before.
            item_timeout_s: most seconds at the vision service for one picture.
            policy: settings that change reports, for the cache.
        """
        self._vision, self._llm, self._explainers, self._model = vision, llm, explainers, model
        self._cache, self._item_timeout_s = cache, item_timeout_s
        self._policy = f"{__version__} {model.id} {model.prior} {PROMPT_VERSION} {policy}"

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
            known = None if options.skip_cache else self._find(digest, options)
            if known is not None:
                for event in replay(known, picture):
                    yield event
                return
        async for event in self._make(picture, digest, options):
            yield event

    def _find(self, digest: bytes, options: Options) -> report_pb2.Report | None:
        for vision in self._vision.identities():
            for llm in self._llm.identities() if self._llm and not options.skip_llm else {""}:
                report = self._cache.find(self._key(digest, vision, llm, options))
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
        evidence = ToolEvidence()
        look = Look(
            self._vision, picture, options.turn, phases, timeout_s=self._item_timeout_s, deadline=options.deadline
        )
        async for event in look.events():
            if isinstance(event, vision_pb2.VisionResult):
                evidence.final = event
                evidence.results |= {result.tool: result for result in event.tool_results}
            else:
                evidence.results[event.tool] = event
                yield coordinator_pb2.ItemEvent(tool_result=event)
        with phases.measure("fusion"):
            fusion = fuse(to_evidence(evidence.in_order()), self._model)
        yield verdict_reached(fusion)
        with phases.measure("explanation"):
            explained = await explainer.explain(
                to_case(evidence.final.image, evidence.in_order(), fusion),
                skip_llm=options.skip_llm,
                timeout_s=options.llm_timeout_s,
                wait_s=options.llm_wait_s,
                deadline=options.deadline - DEADLINE_RESERVE_S,
                turn=options.turn,
            )
        for task in warming:
            if task.done() and not task.cancelled() and task.result() >= 0:
                phases.add("prefix_warm", task.result())
        report = make_report(picture, evidence, fusion, explained, phases)
        if digest and look.identity:
            self._cache.add(self._key(digest, look.identity, explained.identity, options), report)
        yield coordinator_pb2.ItemEvent(report=report)
