"""Can this model be laid over these devices? Answered from config.json, before the engine is started."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass

from llm_service.config import LlmConfig
from llm_service.model_files import find_model_config
from serving.errors import MaifsError, Reason
from serving.known_models import known_shape
from serving.model_config import decoder_sizes, model_shape
from serving.model_memory import padding_cost
from serving.model_shapes import DecoderSizes, ModelShape
from serving.sharding import Padding, Verdict, check, describe_padding

MAX_DEVICES = 8
_NEAREST_COUNT = 4


@dataclass(frozen=True)
class Layout:
    """Tensor parallel times pipeline parallel devices."""

    tensor_parallel_size: int
    pipeline_parallel_size: int

    @property
    def devices_count(self) -> int:
        """Ranks in all."""
        return self.tensor_parallel_size * self.pipeline_parallel_size

    def __str__(self) -> str:
        return f"tensor_parallel_size = {self.tensor_parallel_size}, " + (
            f"pipeline_parallel_size = {self.pipeline_parallel_size}"
        )


@dataclass(frozen=True)
class Prepared:
    """What the preflight knows of a model that may start."""

    sizes: DecoderSizes | None
    """As stored; None for models of another kind, which are left to vLLM."""
    padding: Padding | None
    """What is appended; None when the model runs as it is."""
    tensor_parallel_size: int

    def __str__(self) -> str:
        """E.g. "45/9 heads, 5/1 padded, +1.5 % weights, +12.5 % KV"; "none"."""
        if self.sizes is None or self.padding is None:
            return "none"
        text = describe_padding(self.sizes, self.padding)
        if isinstance(self.sizes, ModelShape):
            text += f", {padding_cost(self.sizes, self.padding, self.tensor_parallel_size)}"
        return text


def judge_layout(sizes: DecoderSizes, layout: Layout, *, may_pad: bool) -> Verdict:
    """See serving.sharding.check."""
    return check(sizes, layout.tensor_parallel_size, layout.pipeline_parallel_size, may_pad=may_pad)


def nearest_layouts(sizes: DecoderSizes, wanted: Layout, *, may_pad: bool) -> list[Layout]:
    """Layouts that run, nearest first: by the number of devices, and never more unless none is left, then by speed."""
    counts = range(1, MAX_DEVICES + 1)
    runs = [
        layout
        for layout in itertools.starmap(Layout, itertools.product(counts, counts))
        if layout.devices_count <= MAX_DEVICES and not judge_layout(sizes, layout, may_pad=may_pad).faults
    ]

    def distance(layout: Layout) -> tuple[bool, int, int]:
        extra = layout.devices_count - wanted.devices_count
        return extra > 0, abs(extra), -layout.tensor_parallel_size

    return sorted(runs, key=distance)[:_NEAREST_COUNT]


def check_layout(config: LlmConfig) -> Prepared:
    """Checks the layout of a dense decoder whose sizes are at hand; all others are left to vLLM.

    Raises:
        MaifsError: MODEL_UNUSABLE with every rule broken and the nearest layouts that run.
    """
    sizes = find_sizes(config.model)
    if sizes is None:
        return Prepared(None, None, config.tensor_parallel_size)
    wanted = Layout(config.tensor_parallel_size, config.pipeline_parallel_size)
    may_pad = config.pad_heads == "auto"
    verdict = judge_layout(sizes, wanted, may_pad=may_pad)
    if verdict.faults:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{config.model} cannot run with {wanted}: {'; '.join(verdict.faults)}.",
            _advice(sizes, wanted, may_pad=may_pad),
        )
    return Prepared(sizes, verdict.padding, config.tensor_parallel_size)


def find_sizes(model: str) -> DecoderSizes | None:
    """The sizes of a dense decoder, from its config.json or the table of known models; None where there are none.

    They are a ModelShape, from which bytes follow, where the weights are stored in a format that is planned.
    """
    table = find_model_config(model)
    if table is None:
        return known_shape(model)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        return model_shape(table, model)
    with contextlib.suppress(AttributeError, KeyError, TypeError, ValueError):
        return decoder_sizes(table)
    return None


def _advice(sizes: DecoderSizes, wanted: Layout, *, may_pad: bool) -> str:
    nearest = "; ".join(
        f"{layout} (padded)" if judge_layout(sizes, layout, may_pad=may_pad).padding else str(layout)
        for layout in nearest_layouts(sizes, wanted, may_pad=may_pad)
    )
    advice = f"The nearest layouts that run: {nearest}." if nearest else "No layout on up to 8 devices runs."
    if not may_pad and judge_layout(sizes, wanted, may_pad=True).padding:
        advice += ' With pad_heads = "auto" it runs as it is wanted, padded by zero heads.'
    return advice
