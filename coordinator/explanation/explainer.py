"""From the case to its explanation: the rules always write one, the language model betters it where its text holds."""

from __future__ import annotations

import asyncio
import logging
import math
from dataclasses import dataclass

from coordinator.case import Case
from coordinator.explanation.answer import Answer, answer_schema, parse_answer
from coordinator.explanation.catalogue import Catalogue
from coordinator.explanation.compose import compose
from coordinator.explanation.prompt import PROMPT_VERSION, make_prompt, prefix
from coordinator.explanation.rules import write_explanation
from coordinator.explanation.text import Explanation
from coordinator.llm_client import LlmClient, PrefixWarmer
from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)
_MIN_TIME_S = 0.05


@dataclass(frozen=True)
class Explained:
    """A complete explanation, and why the language model has no part in it where it was asked in vain."""

    explanation: Explanation
    error: MaifsError | None = None


class Explainer:
    """Writes explanations in one language."""

    def __init__(
        self, words: Catalogue, llm: LlmClient | None, *, timeout_s: float, slots: asyncio.Semaphore, max_tokens: int
    ) -> None:
        """Makes an explainer.

        Args:
            words: texts of its language.
            llm: the language model; None: the rules alone.
            timeout_s: most seconds that it may take for one explanation.
            slots: places at the language model, shared by the explainers of all languages.
            max_tokens: longest answer.
        """
        self._words, self._llm = words, llm
        self._timeout_s, self._max_tokens = timeout_s, max_tokens
        self._slots = slots
        self._warmer = PrefixWarmer(llm, prefix(words.language)) if llm else None
        self._model = ""

    def warm(self) -> asyncio.Task[float] | None:
        """Begins to warm the prompt's constant part where it is not warm; see PrefixWarmer.start."""
        return self._warmer.start() if self._warmer else None

    async def explain(
        self,
        case: Case,
        *,
        skip_llm: bool = False,
        timeout_s: float = 0.0,
        wait_s: float = 0.0,
        deadline: float = math.inf,
    ) -> Explained:
        """Always returns a complete explanation.

        Args:
            case: the evidence and the verdict.
            skip_llm: leave the language model out.
            timeout_s: most seconds to wait for it, its queue here included; 0 for as long as the setting allows, which
                counts from the moment that the model is asked.
            wait_s: before that, most seconds to wait for a model that is still loading.
            deadline: moment by the event loop's clock at which the report must be ready.
        """
        rules = write_explanation(case, self._words)
        if self._llm is None or skip_llm:
            return Explained(rules)
        clock = asyncio.get_running_loop().time
        left = 0.0
        try:
            if wait_s > 0:
                await self._llm.wait_ready(min(wait_s, deadline - clock()))
            left = min(timeout_s or math.inf, deadline - clock())
            if left < _MIN_TIME_S:
                raise MaifsError(Reason.DEADLINE_EXCEEDED, "The call's deadline leaves no time for the language model.")
            async with asyncio.timeout(None if left == math.inf else left):
                answer = await self._ask(self._llm, case, min(self._timeout_s, left))
        except TimeoutError:
            message = f"The language model did not explain the picture within {left:.1f} s."
            return Explained(rules, MaifsError(Reason.DEADLINE_EXCEEDED, message))
        except MaifsError as error:
            _log.info("no explanation from the model", extra={"reason": error.reason.name, "detail": error.message})
            return Explained(rules, error)
        return Explained(compose(rules, answer, case, self._words, model=self._model, prompt_version=PROMPT_VERSION))

    async def _ask(self, llm: LlmClient, case: Case, timeout_s: float) -> Answer:
        async with self._slots:
            try:
                if not self._model:
                    self._model = await llm.model_name()
                return await self._generate(llm, case, timeout_s)
            except MaifsError as error:
                if error.reason is Reason.BACKEND_UNAVAILABLE:
                    self._model = ""  # what comes back may be another model
                    if self._warmer:
                        self._warmer.lost()
                raise

    async def _generate(self, llm: LlmClient, case: Case, timeout_s: float) -> Answer:
        schema = answer_schema(case)
        for brief in (False, True):
            prompt = make_prompt(case, self._words, brief=brief)
            try:
                generation = await llm.generate(
                    prompt.messages, json_schema=schema, max_tokens=self._max_tokens, timeout_s=timeout_s
                )
                break
            except MaifsError as error:
                if brief or error.reason is not Reason.PROMPT_TOO_LONG:
                    raise
        if self._warmer:
            self._warmer.learn(generation)
        return parse_answer(generation.text)

    async def close(self) -> None:
        """Ends what goes on in the background."""
        if self._warmer:
            await self._warmer.close()
