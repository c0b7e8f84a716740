"""Lines that are logged in worker threads belong to the request whose picture is in work."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading

import torch
from PIL import Image

from serving.logs import JsonFormatter, RequestIdFilter
from serving.requests import current_request_id
from serving.trace_context import headers_in, received
from vision_service.analyzer import Analyzer
from vision_service.calibration import Calibration
from vision_service.domain import Observation, Outcome, Test, Tool, ToolName
from vision_service.limits import DecodeLimits
from vision_service.memory import MemoryBudget
from vision_service.substrate import Substrate

TRACE = "0af7651916cd43dd8448eb211c80319c"
_log = logging.getLogger(__name__)


def see(substrate: Substrate) -> Observation:
    _log.warning("seen", extra={"worker": threading.current_thread().name, "sha256": str(substrate.sha256)})
    return Observation(Outcome.NOT_APPLICABLE, reason="a probe", explanation_key="probe")


def colour(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


async def test_two_pictures_at_a_time_keep_their_request_ids_and_traces() -> None:
    lines = io.StringIO()
    handler = logging.StreamHandler(lines)
    handler.setFormatter(JsonFormatter("vision-service"))
    handler.addFilter(RequestIdFilter())
    _log.addHandler(handler)
    tool = Tool(ToolName.NOISE, "1", (Test("noise.probe", "logs", "", see),))
    analyzer = Analyzer(DecodeLimits(), torch.device("cpu"), 2, 8, Calibration.load(None), MemoryBudget(2**32), [tool])

    async def analyse(request_id: str, level: int) -> None:
        current_request_id.set(request_id)
        received.set(headers_in([("traceparent", f"00-{TRACE}-b7ad6b716920333{level}-01")]))
        async for _ in analyzer.analyze(colour(level)):
            pass

    try:
        await asyncio.wait_for(asyncio.gather(analyse("first", 1), analyse("second", 2)), 120)
    finally:
        _log.removeHandler(handler)
        analyzer.close()
    entries = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert {entry["request_id"] for entry in entries} == {"first", "second"}
    assert {entry["trace_id"] for entry in entries} == {TRACE}
    assert all(entry["worker"].startswith("vision") for entry in entries)
    assert len({(entry["request_id"], entry["sha256"]) for entry in entries}) == 2
