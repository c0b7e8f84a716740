"""A backend that takes a set time for each picture: `python -m benchmarks.simulated_stage --address A --stage vision`.

A real gRPC server in a process of its own, with the answers of the tests' simulated services.
"""

from __future__ import annotations

import argparse
import asyncio
import signal

from maifs.llm.v1 import llm_pb2_grpc
from maifs.vision.v1 import vision_pb2_grpc
from serving.item_stream import Item
from tests.coordinator.simulated import TOOLS, SimulatedLlm, SimulatedVision, start_server


def vision(seconds: float, places: int) -> SimulatedVision:
    """Tools that end one after the other within `seconds`, for `places` pictures at a time."""
    service, slots = SimulatedVision(), asyncio.Semaphore(places)

    async def before(_: Item, attempt: int) -> None:
        await slots.acquire()
        service.items.clear()
        await asyncio.sleep(seconds / len(TOOLS))

    async def between(_: Item, number: int) -> None:
        if number < len(TOOLS) - 1:
            await asyncio.sleep(seconds / len(TOOLS))
        else:
            slots.release()

    service.before_tools, service.between_tools = before, between
    return service


def llm(seconds: float, places: int) -> SimulatedLlm:
    """A model that writes `places` answers at a time, each within `seconds`."""
    service, slots = SimulatedLlm(), asyncio.Semaphore(places)

    async def before() -> None:
        async with slots:
            await asyncio.sleep(seconds)

    service.before_finish = before
    return service


async def main(arguments: argparse.Namespace) -> None:
    """Serves until SIGTERM."""
    if arguments.stage == "vision":
        stage = vision(arguments.seconds, arguments.places)
        server = await start_server(
            arguments.address,
            lambda server: vision_pb2_grpc.add_VisionServiceServicer_to_server(stage, server),
            ("maifs.vision.v1.VisionService",),
        )
    else:
        model = llm(arguments.seconds, arguments.places)
        server = await start_server(
            arguments.address,
            lambda server: llm_pb2_grpc.add_LlmServiceServicer_to_server(model, server),
            ("maifs.llm.v1.LlmService",),
        )
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    await over.wait()
    await server.stop(0)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulated_stage", description=__doc__)
    parser.add_argument("--address", required=True)
    parser.add_argument("--stage", choices=("vision", "llm"), required=True)
    parser.add_argument("--seconds", type=float, default=0.0, help="for one picture")
    parser.add_argument("--places", type=int, default=1, help="pictures at a time")
    return parser.parse_args()


if __name__ == "__main__":
    asyncio.run(main(parse()))
