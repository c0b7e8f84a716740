"""The three ways to one engine: our service, the bare AsyncLLM, vLLM's OpenAI HTTP server; started, asked, ended."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import aiohttp
import grpc
import psutil

from benchmarks.llm_load import Outcome, Plan, Question, carry_out
from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.channel import open_channel

START_S = 300.0
_ROLES = {"system": llm_pb2.ROLE_SYSTEM, "user": llm_pb2.ROLE_USER}


class Target(Protocol):
    """One way to the engine."""

    name: str

    async def ready(self) -> None:
        """Waits until it answers."""

    async def run(self, plan: Plan) -> Outcome:
        """Carries out a plan."""

    async def close(self) -> None:
        """Ends it."""


class Process:
    """A server process with the engine's process below it."""

    def __init__(self, command: list[str], log: Path) -> None:
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self._log = log

    def cpu_s(self) -> dict[str, float]:
        """CPU time spent so far by the server and by the engine."""
        server = psutil.Process(self.process.pid)
        engine = sum(_spent_s(child) for child in server.children(recursive=True))
        return {"server": _spent_s(server), "engine": engine}

    def check(self) -> None:
        """Fails with the log when the process has ended."""
        if self.process.poll() is not None:
            raise RuntimeError(f"ended with {self.process.returncode}:\n{self._log.read_text()[-4000:]}")

    def end(self) -> None:
        """Ends it with all processes below."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for child in below:
            if child.is_running():
                child.kill()


def _spent_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _own_cpu_s() -> float:
    times = os.times()
    return times.user + times.system


class GrpcTarget:
    """Our service."""

    name = "service"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        address = f"unix:{folder}/llm.sock"
        options = [text for key, value in settings.items() for text in ("--set", f"{key}={value}")]
        command = ["llm_service", "--address", address, "--set", "server.log_level=warning", *options]
        self._process = Process(command, folder / "service.log")
        self._channel = open_channel(address)
        self._stub: llm_pb2_grpc.LlmServiceAsyncStub = llm_pb2_grpc.LlmServiceStub(self._channel)

    async def ready(self) -> None:
        """See Target."""
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self._process.check()
            try:
                await self._stub.GetModelInfo(llm_pb2.GetModelInfoRequest(), timeout=5)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.2)
            else:
                return
        raise TimeoutError(self.name)

    async def run(self, plan: Plan) -> Outcome:
        """See Target."""
        return await carry_out(self._ask, plan, lambda: {"client": _own_cpu_s()} | self._process.cpu_s())

    async def warm(self, system: str) -> None:
        """Has a system message cached."""
        message = llm_pb2.ChatMessage(role=llm_pb2.ROLE_SYSTEM, content=system)
        await self._stub.WarmPrefix(llm_pb2.WarmPrefixRequest(messages=[message]))

    async def _ask(self, question: Question) -> AsyncIterator[int]:
        request = llm_pb2.GenerateRequest(
            messages=[
                llm_pb2.ChatMessage(role=_ROLES[message["role"]], content=message["content"])
                for message in question.messages()
            ],
            max_tokens_count=question.max_tokens_count,
            json_schema=question.json_schema,
        )
        async for response in self._stub.Generate(request):
            yield response.finish.usage.output_tokens_count if response.HasField("finish") else 0

    async def close(self) -> None:
        """See Target."""
        await self._channel.close()
        self._process.end()


class HttpTarget:
    """vLLM's OpenAI HTTP server, streaming."""

    name = "HTTP"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        socket = folder / "http.sock"
        command = ["benchmarks.llm_servers", "http", str(socket), json.dumps(settings)]
        self._process = Process(command, folder / "http.log")
        self._socket = str(socket)
        self._session: aiohttp.ClientSession | None = None

    async def ready(self) -> None:
        """See Target."""
        self._session = aiohttp.ClientSession(
            "http://localhost", connector=aiohttp.UnixConnector(self._socket, limit=0)
        )
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            self._process.check()
            try:
                async with self._session.get("/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)
        raise TimeoutError(self.name)

    async def run(self, plan: Plan) -> Outcome:
        """See Target."""
        return await carry_out(self._ask, plan, lambda: {"client": _own_cpu_s()} | self._process.cpu_s())

    async def _ask(self, question: Question) -> AsyncIterator[int]:
        body: dict[str, Any] = {
            "model": "model",
            "messages": question.messages(),
            "max_tokens": question.max_tokens_count,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if question.json_schema:
            body["structured_outputs"] = {"json": question.json_schema}
        assert self._session is not None
        async with self._session.post("/v1/chat/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    if event.get("usage"):
                        yield int(event["usage"]["completion_tokens"])
                    elif event["choices"][0]["delta"].get("content"):
                        yield 0

    async def close(self) -> None:
        """See Target."""
        if self._session:
            await self._session.close()
        self._process.end()


class BareTarget:
    """AsyncLLM in a process that asks itself."""

    name = "bare"

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        command = ["benchmarks.llm_servers", "bare", str(folder / "bare.sock"), json.dumps(settings)]
        self._process = Process(command, folder / "bare.log")

    async def ready(self) -> None:
        """See Target."""
        await self._line()

    async def run(self, plan: Plan) -> Outcome:
        """See Target."""
        before = self._process.cpu_s()
        assert self._process.process.stdin is not None
        self._process.process.stdin.write(json.dumps(plan.to_table()) + "\n")
        self._process.process.stdin.flush()
        outcome = Outcome.from_table(await self._line())
        after = self._process.cpu_s()
        spent = {name: after[name] - before[name] for name in after} | {"client": 0.0}
        return Outcome(outcome.wall_s, outcome.answers, spent)

    async def _line(self) -> Any:
        assert self._process.process.stdout is not None
        line = await asyncio.to_thread(self._process.process.stdout.readline)
        if not line:
            self._process.check()
            raise RuntimeError("the bare engine closed its output")
        return json.loads(line)

    async def close(self) -> None:
        """See Target."""
        self._process.end()


class Targets:
    """All three, started and ended together."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self.all: list[Target] = []

    async def __aenter__(self) -> list[Target]:
        for make in (BareTarget, GrpcTarget, HttpTarget):
            self.all.append(make(self._folder, self._settings))
        try:
            await asyncio.gather(*(target.ready() for target in self.all))
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self.all

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for target in self.all:
            await target.close()
