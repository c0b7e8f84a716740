"""Findings as they arrive, with asyncio: `python examples/events.py photo.jpg`."""

import asyncio
import sys

from coordinator.client import AsyncClient, Failed, Options, Reported, ToolEnded, VerdictKnown
from maifs.common.v1.finding_pb2 import Tool


async def main(path: str) -> None:
    """Prints a line for every event."""
    async with AsyncClient(options=Options(use_llm=False)) as client:
        async for event in client.events(path):
            match event:
                case ToolEnded(result=result):
                    print(Tool.Name(result.tool), [f.id for f in result.findings if f.detected])
                case VerdictKnown(verdict=verdict):
                    print("verdict", verdict.verdict)
                case Reported(report=report):
                    print("report", report.request_id)
                case Failed(error=error):
                    raise error


asyncio.run(main(sys.argv[1]))
