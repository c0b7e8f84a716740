"""A simulated backend with the life of a real service: python -m tests.faults.simulated_service vision --address A.

Its work takes a set time; health, drain on SIGTERM, request ids and errors are those of `serving.server.serve`.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

import grpc

from maifs.llm.v1 import llm_pb2_grpc
from maifs.vision.v1 import vision_pb2_grpc
from serving.errors import MaifsError
from serving.item_stream import Item
from serving.logs import configure_logs
from serving.server import ServerConfig, serve
from tests.coordinator.simulated import SimulatedLlm, SimulatedVision

_NAMES = {"vision": "maifs.vision.v1.VisionService", "llm": "maifs.llm.v1.LlmService"}


class SimulatedService:
    """One backend that works for `seconds` on each request."""

    def __init__(self, kind: str, seconds: float, map_bytes: int) -> None:
        self.grpc_names = (_NAMES[kind],)
        self._seconds = seconds
        self._llm = SimulatedLlm(before_finish=self._work)
        self._vision = SimulatedVision(before_tools=self._look)
        self._vision.results[0].findings[0].heat_map.png = bytes(map_bytes)
        self._is_llm = kind == "llm"

    async def _work(self) -> None:
        self._llm.requests.clear()  # a long run must not collect them
        self._llm.deadlines.clear()
        await asyncio.sleep(self._seconds)

    async def _look(self, item: Item, attempt: int) -> None:
        for seen in (self._vision.items, self._vision.deadlines, self._vision.ended):
            seen.clear()
        await asyncio.sleep(self._seconds)

    def register(self, server: grpc.aio.Server) -> None:
        if self._is_llm:
            llm_pb2_grpc.add_LlmServiceServicer_to_server(self._llm, server)
        else:
            vision_pb2_grpc.add_VisionServiceServicer_to_server(self._vision, server)

    async def start(self) -> None:
        """Nothing to load."""

    async def wait_failed(self) -> MaifsError:
        await asyncio.Event().wait()
        raise AssertionError

    async def stop(self) -> None:
        """Nothing to free."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=sorted(_NAMES))
    parser.add_argument("--address", required=True)
    parser.add_argument("--seconds", type=float, default=0.02, help="for each picture or answer")
    parser.add_argument("--map-bytes", type=int, default=0, help="of a heat map in each report")
    arguments = parser.parse_args()
    configure_logs(f"simulated-{arguments.kind}", "info", "json")
    service = SimulatedService(arguments.kind, arguments.seconds, arguments.map_bytes)
    return asyncio.run(serve(service, ServerConfig(arguments.address)))


if __name__ == "__main__":
    sys.exit(main())
