"""What language models think of one picture beside its findings: a reading of the picture itself, and a second look."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.backends.fair_queue import Turn
from coordinator.case import Case
from coordinator.explanation.catalogue import Catalogue
from coordinator.explanation.disagreement import find_disagreement
from coordinator.explanation.model import Model
from coordinator.explanation.picture_reading import PictureReading, read_picture
from coordinator.explanation.second_look import SecondLook, hold_second_look
from coordinator.fusion import FusionModel, Opinion
from serving.encoded import Encoded

_DECODED_AT_A_TIME = 2


@dataclass(frozen=True)
class Asking:
    """How opinions on one picture are asked for."""

    language: str
    turn: Turn
    timeout_s: float
    """Most seconds for each; 0: as long as one answer may take by the setting."""
    wait_s: float
    """Before that, most seconds to wait for a model that is still loading; the picture reading does not wait."""
    deadline: float
    """Moment by the event loop's clock at which the report must be ready."""


class OpinionStage:
    """Asks language models for opinions."""

    def __init__(
        self,
        model: Model,
        fusion: FusionModel,
        catalogues: Mapping[str, Catalogue],
        *,
        second_look: bool,
        picture_reading: bool,
    ) -> None:
        """Makes the stage.

        Args:
            model: the language model.
            fusion: which opinions count.
            catalogues: by language.
            second_look: whether tools that disagree are looked at again.
            picture_reading: whether a model that takes pictures is shown them.
        """
        self.model, self.fusion, self.catalogues = model, fusion, catalogues
        self.second_look, self.picture_reading = second_look, picture_reading
        self.decoding = asyncio.Semaphore(_DECODED_AT_A_TIME)

    def begin(self, file: Encoded, asking: Asking) -> Opinions:
        """Begins with a picture; the model, where it takes pictures, sees it at the same moment as the tools."""
        return Opinions(self, file, asking)


class Opinions:
    """Opinions on one picture."""

    def __init__(self, stage: OpinionStage, file: Encoded, asking: Asking) -> None:
        self._stage, self._asking = stage, asking
        self._looking: asyncio.Task[SecondLook] | None = None
        self._reading: asyncio.Task[PictureReading] | None = None
        if stage.picture_reading and stage.model.takes_images:
            work = read_picture(
                file, asking.language, stage.model, stage.decoding, turn=asking.turn, timeout_s=self._left_s()
            )
            self._reading = asyncio.ensure_future(work)

    @property
    def asked(self) -> bool:
        """Whether any was asked for."""
        return self._looking is not None or self._reading is not None

    def _left_s(self) -> float:
        left = self._asking.deadline - asyncio.get_running_loop().time()
        return max(min(self._asking.timeout_s or self._stage.model.timeout_s, left), 0.0)

    async def that_count(self, case: Case) -> list[Opinion]:
        """Begins the second look where tools disagree, and waits for the opinions that have a weight.

        Args:
            case: with the verdict of the findings alone.
        """
        disagreement = find_disagreement(case) if self._stage.second_look else None
        if disagreement is not None:
            words = self._stage.catalogues[self._asking.language]
            work = hold_second_look(
                case,
                disagreement,
                words,
                self._stage.model,
                turn=self._asking.turn,
                timeout_s=self._asking.timeout_s or self._stage.model.timeout_s,
                wait_s=self._asking.wait_s,
                deadline=self._asking.deadline,
            )
            self._looking = asyncio.ensure_future(work)
        weighed = self._stage.fusion.opinion
        opinions = []
        if self._looking and weighed("second_look").weight > 0:
            opinions.append((await self._looking).opinion)
        if self._reading and weighed("picture_reading").weight > 0:
            opinions.append((await self._reading).opinion)
        return [opinion for opinion in opinions if opinion is not None]

    async def all(self) -> tuple[SecondLook | None, PictureReading | None]:
        """Waits for both."""
        looked = await self._looking if self._looking else None
        read = await self._reading if self._reading else None
        return looked, read

    def close(self) -> None:
        """Gives up what has not ended."""
        for task in (self._looking, self._reading):
            if task is not None:
                task.cancel()
