"""A simulated backend as a process of its own: python -m tests.coordinator.simulated_process vision --address ADDR."""

from __future__ import annotations

import argparse
import asyncio

import grpc

from maifs.llm.v1 import llm_pb2_grpc
from maifs.vision.v1 import vision_pb2_grpc
from serving.address import SocketLock, socket_path
from serving.item_stream import Item
from tests.coordinator.simulated import SimulatedLlm, SimulatedVision, start_server


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("service", choices=["vision", "llm"])
    parser.add_argument("--address", required=True)
    parser.add_argument("--seconds", type=float, default=0.02, help="for each picture or answer")
    parser.add_argument("--map-bytes", type=int, default=0, help="of a heat map in each report")
    arguments = parser.parse_args()
    path = socket_path(arguments.address)
    assert path
    SocketLock(path).acquire()  # removes the socket of the process before

    async def work(*_: Item | int) -> None:
        await asyncio.sleep(arguments.seconds)

    def add(server: grpc.aio.Server) -> None:
        if arguments.service == "llm":
            llm_pb2_grpc.add_LlmServiceServicer_to_server(SimulatedLlm(before_finish=work), server)
            return
        vision = SimulatedVision(before_tools=work)
        vision.results[0].findings[0].heat_map.png = bytes(arguments.map_bytes)
        vision_pb2_grpc.add_VisionServiceServicer_to_server(vision, server)

    names = {"vision": "maifs.vision.v1.VisionService", "llm": "maifs.llm.v1.LlmService"}
    server = await start_server(arguments.address, add, (names[arguments.service],))
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
