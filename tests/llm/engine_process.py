"""A running LLM service, its client and its processes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError

from maifs.llm.v1 import llm_pb2, llm_pb2_grpc
from serving.channel import open_channel
from tests.model import prepared_model
from tests.processes import ServiceProcess

LONG = "Write a very long story about a river, a mill and a lighthouse."
"""A prompt whose answer does not end by itself for a while."""
MAX_RUNNING, MAX_QUEUED, MAX_MODEL_LEN = 2, 2, 2048

Stub: TypeAlias = "llm_pb2_grpc.LlmServiceAsyncStub"  # a class of the typed stubs alone


def start_llm(folder: Path, **overrides: object) -> ServiceProcess:
    """The service with the small model and small limits, or other settings; not yet serving."""
    settings: dict[str, object] = {
        "model": str(prepared_model()),
        "max_running_requests_count": MAX_RUNNING,
        "max_queued_requests_count": MAX_QUEUED,
        "max_model_len_tokens_count": MAX_MODEL_LEN,
        "default_output_tokens_count": 64,
        "max_output_tokens_count": 1024,
        "server.drain_grace_s": 20,
    } | overrides
    arguments = [text for name, value in settings.items() for text in ("--set", f"{name}={value}")]
    return ServiceProcess("llm_service", f"unix:{folder}/llm.sock", *arguments, log=folder / "llm.log")


@contextlib.asynccontextmanager
async def connected(service: ServiceProcess) -> AsyncIterator[Stub]:
    """A stub of the service."""
    async with open_channel(service.address) as channel:
        yield llm_pb2_grpc.LlmServiceStub(channel)


def user(text: str) -> llm_pb2.ChatMessage:
    """What a person says."""
    return llm_pb2.ChatMessage(role=llm_pb2.ROLE_USER, content=text)


def system(text: str) -> llm_pb2.ChatMessage:
    """Instructions."""
    return llm_pb2.ChatMessage(role=llm_pb2.ROLE_SYSTEM, content=text)


@dataclass
class Answer:
    """A whole stream."""

    deltas: list[str] = field(default_factory=list)
    logprobs: list[llm_pb2.TokenLogprob] = field(default_factory=list)
    finishes: list[llm_pb2.GenerateFinish] = field(default_factory=list)
    last_is_finish: bool = False

    @property
    def text(self) -> str:
        """All deltas."""
        return "".join(self.deltas)

    @property
    def finish(self) -> llm_pb2.GenerateFinish:
        """The one end."""
        (finish,) = self.finishes
        return finish


async def ask(stub: Stub, request: llm_pb2.GenerateRequest, timeout_s: float = 60.0) -> Answer:
    """Generates to the end."""
    answer = Answer()
    async for response in stub.Generate(request, timeout=timeout_s):
        answer.last_is_finish = response.WhichOneof("event") == "finish"
        if answer.last_is_finish:
            answer.finishes.append(response.finish)
        else:
            answer.deltas.append(response.delta)
            answer.logprobs.extend(response.logprobs)
    return answer


async def refusal(stub: Stub, request: llm_pb2.GenerateRequest) -> tuple[AioRpcError, str, str]:
    """The error of a request that must be refused, its reason and message; the next request must work."""
    try:
        await ask(stub, request)
    except AioRpcError as error:
        caught = error
    else:
        raise AssertionError("the request was not refused")
    after = await ask(stub, llm_pb2.GenerateRequest(messages=[user("hi")], max_tokens_count=1))
    assert after.finish.usage.output_tokens_count == 1
    return caught, reason_of(caught)[0], caught.details() or ""


async def wait_idle(stub: Stub, timeout_s: float = 10.0) -> None:
    """Waits until no request is active, neither for the service nor in its engine."""
    await wait_load(
        stub,
        lambda load: load.active_requests_count == load.running_requests_count == load.waiting_requests_count == 0,
        timeout_s,
    )


async def wait_load(stub: Stub, expected: Callable[[llm_pb2.LlmLoad], bool], timeout_s: float = 10.0) -> None:
    """Waits for a load."""
    end = time.monotonic() + timeout_s
    while not expected(load := (await stub.GetModelInfo(llm_pb2.GetModelInfoRequest())).load):
        if time.monotonic() > end:
            raise AssertionError(f"the load stays {load}")
        await asyncio.sleep(0.02)


def reason_of(error: AioRpcError) -> tuple[str, float]:
    """ErrorInfo.reason and RetryInfo's seconds; exactly one ErrorInfo is asserted."""
    metadata = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(metadata["grpc-status-details-bin"])
    reasons, retry_s = [], 0.0
    for detail in status.details:
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            reasons.append(info.reason)
        elif detail.Unpack(retry):
            retry_s = retry.retry_delay.ToNanoseconds() / 1e9
    (reason,) = reasons
    return reason, retry_s


def descendants(pid: int) -> list[int]:
    """Processes below this one."""
    found: list[int] = []
    for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, tasks.read_text().split()):
            found += [child, *descendants(child)]
    return found


def engine_of(pid: int) -> int | None:
    """The engine's process below this one, once it carries its name."""
    return next(iter(_named(pid, b"EngineCore")), None)


def workers_of(pid: int) -> list[int]:
    """The engine's tensor and pipeline parallel workers below this process."""
    return _named(pid, b"Worker")


def _named(pid: int, name: bytes) -> list[int]:
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            if name in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(child)
    return found


def living(pids: Sequence[int]) -> list[int]:
    """Those that run; a dead process that nobody has collected yet does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found


def wait_gone(pids: Sequence[int], timeout_s: float) -> list[int]:
    """Waits for processes to end; returns those that did not."""
    end = time.monotonic() + timeout_s
    while (left := living(pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return left
