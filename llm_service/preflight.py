"""Can this model be laid over these devices? Answered from config.json, before the engine is started."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm_service.config import LlmConfig
from llm_service.model_files import read_model_config
from serving.errors import MaifsError, Reason
from serving.model_shapes import DecoderSizes, decoder_sizes
from serving.sharding import find_faults

MAX_DEVICES = 8
_NEAREST_COUNT = 3


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


def layout_faults(sizes: DecoderSizes, layout: Layout) -> list[str]:
    """The rules that a layout breaks, with numbers; empty when it runs."""
    return find_faults(sizes, layout.tensor_parallel_size, layout.pipeline_parallel_size)


def nearest_layouts(sizes: DecoderSizes, wanted: Layout) -> list[Layout]:
    """Layouts that run, nearest first: by the number of devices, and never more unless none is left, then by speed."""
    counts = range(1, MAX_DEVICES + 1)
    runs = [
        layout
        for layout in itertools.starmap(Layout, itertools.product(counts, counts))
        if layout.devices_count <= MAX_DEVICES and not layout_faults(sizes, layout)
    ]

    def distance(layout: Layout) -> tuple[bool, int, int]:
        extra = layout.devices_count - wanted.devices_count
        return extra > 0, abs(extra), -layout.tensor_parallel_size

    return sorted(runs, key=distance)[:_NEAREST_COUNT]


def check_layout(config: LlmConfig) -> None:
    """Checks the layout of a dense decoder that is given as a directory; all others are left to vLLM.

    Raises:
        MaifsError: MODEL_UNUSABLE with every rule broken and the nearest layouts that run.
    """
    table = read_model_config(Path(config.model))
    sizes = _sizes(table) if table else None
    if sizes is None:
        return
    wanted = Layout(config.tensor_parallel_size, config.pipeline_parallel_size)
    faults = layout_faults(sizes, wanted)
    if faults:
        nearest = "; ".join(str(layout) for layout in nearest_layouts(sizes, wanted))
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"{config.model} cannot run with {wanted}: {'; '.join(faults)}.",
            f"The nearest layouts that run: {nearest}." if nearest else "No layout on up to 8 devices runs.",
        )


def _sizes(table: Mapping[str, Any]) -> DecoderSizes | None:
    try:
        return decoder_sizes(table)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
