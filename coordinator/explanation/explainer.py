"""From the case to its explanation: the rules always write one, the language model betters it where its text holds."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass

from coordinator.backends.fair_queue import ANYBODY, Turn
from coordinator.backends.pool import Pool
from coordinator.case import Case
from coordinator.explanation.answer import Answer, answer_schema, parse_answer
from coordinator.explanation.catalogue import Catalogue
from coordinator.explanation.compose import compose
from coordinator.explanation.prompt import PROMPT_VERSION, make_prompt, prefix
from coordinator.explanation.rules import write_explanation
from coordinator.explanation.text import Explanation
from coordinator.llm_client import Generation, LlmClient, PrefixWarmer, watched
from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)
_MIN_TIME_S = 0.05


@dataclass(frozen=True)
class Explained:
    """A complete explanation, and why the language model has no part in it where it was asked in vain."""

    explanation: Explanation
    error: MaifsError | None = None
    identity: str = ""
    """Versions of the language model that had a part in it; empty when none had."""


@dataclass(frozen=True)
class _Answered:
    answer: Answer
    model: str
    identity: str


class Explainer:
    """Writes explanations in one language."""

    def __init__(self, words: Catalogue, llm: Pool[LlmClient] | None, *, timeout_s: float, max_tokens: int) -> None:
        """Makes an explainer.

        Args:
            words: texts of its language.
            llm: the language model, shared by the explainers of all languages; None: the rules alone.
            timeout_s: most seconds that it may take for one explanation.
            max_tokens: longest answer.
        """
        self._words, self._llm = words, llm
        self.language = words.language
        self._timeout_s, self._max_tokens = timeout_s, max_tokens
        self._warmers: dict[LlmClient, PrefixWarmer] = {}

    def warm(self) -> list[asyncio.Task[float]]:
        """Begins to warm the prompt's constant part wherever it is not warm; see PrefixWarmer.start."""
        clients = [backend.client for backend in self._llm.backends] if self._llm else []
        self._warmers = {client: self._warmer(client) for client in clients}
        return [task for warmer in self._warmers.values() if (task := warmer.start()) is not None]

    def _warmer(self, client: LlmClient) -> PrefixWarmer:
        return self._warmers.get(client) or PrefixWarmer(client, prefix(self._words.language))

    async def explain(
        self,
        case: Case,
        *,
        skip_llm: bool = False,
        timeout_s: float = 0.0,
        wait_s: float = 0.0,
        deadline: float = math.inf,
        turn: Turn = ANYBODY,
    ) -> Explained:
        """Always returns a complete explanation.

        Args:
            case: the evidence and the verdict.
            skip_llm: leave the language model out.
            timeout_s: most seconds to wait for it, its queue here included; 0 for as long as the setting allows, which
                counts from the moment that the model is asked.
            wait_s: before that, most seconds to wait for a model that is still loading.
            deadline: moment by the event loop's clock at which the report must be ready.
            turn: for whom.
        """
        rules = write_explanation(case, self._words)
        if self._llm is None or skip_llm:
            return Explained(rules)
        clock = asyncio.get_running_loop().time
        left = 0.0
        try:
            if wait_s > 0:
                await self._llm.wait_serving(min(wait_s, deadline - clock()))
            left = min(timeout_s or math.inf, deadline - clock())
            if left < _MIN_TIME_S:
                raise MaifsError(Reason.DEADLINE_EXCEEDED, "The call's deadline leaves no time for the language model.")
            async with asyncio.timeout(None if left == math.inf else left):
                answered = await self._ask(self._llm, case, min(self._timeout_s, left), turn)
        except TimeoutError:
            message = f"The language model did not explain the picture within {left:.1f} s."
            return Explained(rules, MaifsError(Reason.DEADLINE_EXCEEDED, message))
        except MaifsError as error:
            _log.info("no explanation from the model", extra={"reason": error.reason.name, "detail": error.message})
            return Explained(rules, error)
        explanation = compose(
            rules, answered.answer, case, self._words, model=answered.model, prompt_version=PROMPT_VERSION
        )
        return Explained(explanation, identity=answered.identity)

    async def _ask(self, llm: Pool[LlmClient], case: Case, timeout_s: float, turn: Turn) -> _Answered:
        async with llm.slot(turn) as backend:
            with watched(backend, self._timeout_s):
                try:
                    model = (await backend.client.model()).model
                    generation = await self._generate(backend.client, case, timeout_s, turn)
                except MaifsError as error:
                    if error.reason is Reason.BACKEND_UNAVAILABLE:
                        backend.client.forget_model()
                        self._warmer(backend.client).lost()
                    raise
            self._warmer(backend.client).learn(generation)
            return _Answered(parse_answer(generation.text), model, backend.identity)

    async def _generate(self, client: LlmClient, case: Case, timeout_s: float, turn: Turn) -> Generation:
        schema = answer_schema(case)
        for brief in (False, True):
            prompt = make_prompt(case, self._words, brief=brief)
            try:
                return await client.generate(
                    prompt.messages,
                    json_schema=schema,
                    max_tokens=self._max_tokens,
                    timeout_s=timeout_s,
                    priority=turn.priority,
                )
            except MaifsError as error:
                if brief or error.reason is not Reason.PROMPT_TOO_LONG:
                    raise
        raise AssertionError

    async def close(self) -> None:
        """Ends what goes on in the background."""
        for warmer in self._warmers.values():
            await warmer.close()
