"""The life of the LLM service: start the engine off the event loop, warm it up, watch it, stop it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import multiprocessing
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import grpc

from llm_service.adapters import load_adapters
from llm_service.config import LlmConfig
from llm_service.describe import describe
from llm_service.domain import Delta, Finish, FinishReason
from llm_service.engine import Engine, engine_dead
from llm_service.launch import Launched, launch
from llm_service.metrics import LlmMetrics
from llm_service.requests import Constraint, Generation, Message, Role
from llm_service.servicer import LlmServicer
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.errors import MaifsError, Reason

_log = logging.getLogger(__name__)

_SHUTDOWN_TIMEOUT_S = 2.0
"""The engine's process has nothing left to do by then; it only frees memory, which the kernel does faster."""
_WARM_UP_TOKENS_COUNT = 48
_WARM_UP_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"ready": {"type": "boolean"}},
        "required": ["ready"],
        "additionalProperties": False,
    }
)


class LlmServiceProcess:
    """See serving.server.Service."""

    def __init__(self, config: LlmConfig) -> None:
        self._config = config
        self.metrics = LlmMetrics()
        self._servicer = LlmServicer(config, self.metrics)
        self._sockets: tempfile.TemporaryDirectory[str] | None = None
        self._launching: asyncio.Future[Launched] | None = None
        self._engine: Engine | None = None
        self._stopping = False

    @property
    def grpc_names(self) -> Sequence[str]:
        """See serving.server.Service."""
        return [llm_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name]

    def register(self, server: grpc.aio.Server) -> None:
        """See serving.server.Service."""
        llm_pb2_grpc.add_LlmServiceServicer_to_server(self._servicer, server)

    async def start(self) -> None:
        """Starts the engine and passes one answer with a JSON schema through it."""
        loop = asyncio.get_running_loop()
        self._sockets = tempfile.TemporaryDirectory(prefix="maifs-engine-", ignore_cleanup_errors=True)
        folder = Path(self._sockets.name)
        self._launching = loop.run_in_executor(None, launch, self._config, folder, lambda: self._stopping)
        launched = await asyncio.shield(self._launching)
        adapters = await load_adapters(launched.llm, self._config.adapters)
        engine = Engine(launched.llm, self._config, adapters, self.metrics.stepped)
        start = time.perf_counter()
        await _warm_up(engine)
        phases = {**launched.phases_s, "warm_up": round(time.perf_counter() - start, 3)}
        self._engine = engine
        self._show(engine)
        description = describe(launched, self._config)
        self._servicer.open(engine, description)
        _log.info(
            "model loaded", extra={"model": description.model, "devices": description.devices, "phases_s": phases}
        )

    def _show(self, engine: Engine) -> None:
        """Makes the metrics tell the engine's state."""

        async def look() -> None:
            self.metrics.look(engine.load(), engine.engine_load())

        self.metrics.on_look.append(look)
        self.metrics.pass_on_vllm()

    async def wait_failed(self) -> MaifsError:
        """Returns ENGINE_DEAD when the engine's processes are gone."""
        assert self._engine is not None
        await self._engine.wait_dead(self._config.health_poll_s)
        return engine_dead()

    async def check_alive(self) -> None:
        """See serving.server.Watched: the engine's process answers between two of its steps, or hangs."""
        if self._engine:
            await self._engine.ping()

    async def stop(self) -> None:
        """Ends the engine and all its processes."""
        self._stopping = True
        if self._launching is None:
            return
        while not self._launching.done():
            _end_children(kill=False)  # makes a start that is waiting for its processes fail at once
            await asyncio.wait({self._launching}, timeout=0.2)
        if self._launching.exception() is None:
            await _shut_down(self._launching.result())
        self._engine = self._launching = None
        self._servicer.close()
        gc.freeze()  # the end of the interpreter would search vLLM's modules for seconds
        _end_children(kill=True)
        if self._sockets:
            self._sockets.cleanup()


async def _shut_down(launched: Launched) -> None:
    handler = launched.llm.output_handler
    if handler is not None:
        handler.cancel()  # it would log the end of the engine as a failure
    await asyncio.to_thread(launched.llm.shutdown, _SHUTDOWN_TIMEOUT_S)
    launched.llm.shutdown = lambda: None  # its finaliser would call it once more, when its modules are gone


def _end_children(*, kill: bool) -> None:
    for child in multiprocessing.active_children():
        if kill:
            child.kill()
            child.join(1.0)
        else:
            child.terminate()


async def _warm_up(engine: Engine) -> None:
    """One real answer under a schema: tokenizer, template, grammar, model and sampler have worked once."""
    request = Generation(
        messages=(Message(Role.USER, "Say that you are ready."),),
        max_tokens_count=_WARM_UP_TOKENS_COUNT,
        constraint=Constraint(json_schema=_WARM_UP_SCHEMA),
    )
    text, reason = "", FinishReason.LENGTH
    async for event in engine.generate(request):
        if isinstance(event, Delta):
            text += event.text
        elif isinstance(event, Finish):
            reason = event.reason
    try:
        usable = reason is FinishReason.STOP and isinstance(json.loads(text)["ready"], bool)
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise MaifsError(
            Reason.MODEL_UNUSABLE,
            f"The warm-up answer does not follow its JSON schema: {text[:200]!r} (ended by {reason}).",
            "The model's files or the engine's build are at fault; try another model.",
        )
