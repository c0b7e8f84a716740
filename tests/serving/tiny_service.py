"""A service with nothing in it but its life: what the lifecycle tests start as a process."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.errors import MaifsError, Reason
from serving.main import run_service
from serving.requests import current_request_id
from serving.server import ServerConfig


@dataclass(frozen=True)
class TinyConfig:
    server: ServerConfig = field(default_factory=lambda: ServerConfig(address="unix:/run/maifs/tiny.sock"))
    start_s: float = 0.0
    fail_start: bool = False
    die_after_s: float = 0.0


class TinyServicer(llm_pb2_grpc.LlmServiceServicer):
    async def GetModelInfo(self, request: Any, context: Any) -> llm_pb2.GetModelInfoResponse:
        logging.getLogger("tiny").info("asked")
        return llm_pb2.GetModelInfoResponse(model=current_request_id.get())

    async def WarmPrefix(self, request: llm_pb2.WarmPrefixRequest, context: Any) -> llm_pb2.WarmPrefixResponse:
        text = request.messages[0].content
        if text == "known":
            raise MaifsError(Reason.QUEUE_FULL, "no room", "wait", retry_after_s=2)
        if text == "bug":
            raise ZeroDivisionError("oops")
        await asyncio.sleep(float(text))
        return llm_pb2.WarmPrefixResponse(prompt_tokens_count=1)

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[llm_pb2.GenerateResponse]:
        yield llm_pb2.GenerateResponse(delta="one")
        raise MaifsError(Reason.ENGINE_DEAD, "gone")


class TinyService:
    grpc_names = ("maifs.llm.v1.LlmService",)

    def __init__(self, config: TinyConfig) -> None:
        self._config = config

    def register(self, server: grpc.aio.Server) -> None:
        llm_pb2_grpc.add_LlmServiceServicer_to_server(TinyServicer(), server)

    async def start(self) -> None:
        await asyncio.sleep(self._config.start_s)
        if self._config.fail_start:
            raise MaifsError(Reason.MODEL_UNUSABLE, "no such model", "name another")

    async def wait_failed(self) -> MaifsError:
        await asyncio.sleep(self._config.die_after_s or 1000)
        return MaifsError(Reason.ENGINE_DEAD, "the engine died")

    async def stop(self) -> None:
        logging.getLogger("tiny").info("freed")


if __name__ == "__main__":
    sys.exit(
        run_service(
            name="tiny-service",
            section="tiny",
            description="For tests.",
            config_type=TinyConfig,
            build=TinyService,
        )
    )
