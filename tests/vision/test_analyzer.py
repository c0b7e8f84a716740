"""The order in which the tools of a picture begin, and that of their results in the analysis."""

from __future__ import annotations

import torch

from benchmarks.camera import photo, to_jpeg
from vision_service.analyzer import Analysis, Analyzer
from vision_service.calibration import Calibration
from vision_service.domain import Observation, Test, Tool, ToolName, not_applicable
from vision_service.limits import DecodeLimits
from vision_service.memory import MemoryBudget
from vision_service.substrate import Substrate


async def test_a_quick_tool_begins_first_then_the_longest_and_the_analysis_keeps_the_order_of_reports() -> None:
    begun: list[ToolName] = []

    def probe(name: ToolName) -> Tool:
        def run(_substrate: Substrate) -> Observation:
            begun.append(name)
            return not_applicable("probe", "says nothing")

        return Tool(name, "1", (Test(f"{name.value}.probe", "remembers when it ran", "", run),))

    tools = [probe(name) for name in ToolName]
    analyzer = Analyzer(DecodeLimits(), torch.device("cpu"), 1, 8, Calibration.load(None), MemoryBudget(2**32), tools)
    try:
        events = [event async for event in analyzer.analyze(to_jpeg(photo(64, 64, seed=3), 90))]
    finally:
        analyzer.close()
    assert begun == [ToolName.NOISE, ToolName.SPATIAL, ToolName.FREQUENCY, ToolName.WATERMARK]
    analysis = events[-1]
    assert isinstance(analysis, Analysis)
    assert [result.tool for result in analysis.results] == list(ToolName)
