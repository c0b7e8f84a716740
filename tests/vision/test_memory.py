"""The memory budget of the vision service: who waits, who is refused, and what a device without memory becomes."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks.camera import photo, to_jpeg
from serving.errors import MaifsError, Reason
from vision_service.analyzer import Analysis, Analyzer
from vision_service.calibration import Calibration
from vision_service.domain import Observation, Outcome, Test, Tool, ToolName
from vision_service.limits import DecodeLimits
from vision_service.memory import BYTES_PER_PIXEL, FIXED_BYTES, MemoryBudget, estimate_bytes, limit_device
from vision_service.substrate import Substrate

CPU = torch.device("cpu")
SMALL, LARGE = (to_jpeg(photo(side, side, seed=3), 90) for side in (64, 512))


async def ready(task: asyncio.Task[None]) -> bool:
    """Whether a task is done once all that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)
    return task.done()


async def test_shares_are_given_out_in_the_order_of_asking() -> None:
    budget = MemoryBudget(10)
    await budget.acquire(6)
    large, small = (asyncio.ensure_future(budget.acquire(size)) for size in (5, 1))
    assert not await ready(large)
    assert not await ready(small), "a small picture must not starve a large one that came first"
    budget.release(6)
    assert await ready(large)
    assert await ready(small)
    assert budget.held_bytes == 6


async def test_who_stops_waiting_leaves_no_share_behind_and_lets_the_next_one_pass() -> None:
    budget = MemoryBudget(10)
    await budget.acquire(6)
    large, small = (asyncio.ensure_future(budget.acquire(size)) for size in (5, 1))
    assert not await ready(large)
    large.cancel()
    assert await ready(small)
    assert budget.held_bytes == 7


async def test_a_share_that_was_given_in_the_moment_of_cancelling_comes_back() -> None:
    budget = MemoryBudget(10)
    await budget.acquire(10)
    waiting = asyncio.ensure_future(budget.acquire(4))
    assert not await ready(waiting)
    budget.release(10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert budget.held_bytes == 0


async def test_what_can_never_fit_is_refused_with_numbers_and_without_a_time_to_wait() -> None:
    budget = MemoryBudget(FIXED_BYTES + 1_000_000 * BYTES_PER_PIXEL)
    with pytest.raises(MaifsError, match="enough for 1 megapixels") as caught:
        await budget.acquire(estimate_bytes(2000, 1000))
    assert (caught.value.reason, caught.value.retry_after_s) == (Reason.EXCEEDS_MEMORY_BUDGET, 0.0)
    assert budget.held_bytes == 0


class Probe:
    """A test that counts how many pictures are in work, and fails as it is told."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure = failure
        self.most, self.now = 0, 0
        self.entered = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.leave = asyncio.Event()

    def run(self, substrate: Substrate) -> Observation:
        self.now += 1
        self.most = max(self.most, self.now)
        self.loop.call_soon_threadsafe(self.entered.set)
        if self.failure:
            raise self.failure
        asyncio.run_coroutine_threadsafe(self.leave.wait(), self.loop).result(20)
        self.now -= 1
        return Observation(Outcome.NOT_APPLICABLE, reason="a probe", explanation_key="probe")


def analyzer_of(probe: Probe, limit_bytes: int) -> Analyzer:
    tool = Tool(ToolName.NOISE, "1", (Test("noise.probe", "counts", "", probe.run),))
    return Analyzer(DecodeLimits(), CPU, 2, 8, Calibration.load(None), MemoryBudget(limit_bytes), [tool])


async def analyse(analyzer: Analyzer, data: bytes) -> Analysis:
    async for event in analyzer.analyze(data):
        if isinstance(event, Analysis):
            return event
    raise AssertionError


async def test_two_pictures_that_do_not_fit_together_run_one_after_the_other() -> None:
    probe = Probe()
    analyzer = analyzer_of(probe, estimate_bytes(512, 512) + 1)
    tasks = [asyncio.ensure_future(analyse(analyzer, LARGE)) for _ in range(2)]
    await asyncio.wait_for(probe.entered.wait(), 20)
    probe.leave.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert probe.most == 1
    assert analyzer.memory.held_bytes == 0
    analyzer.close()


async def test_a_picture_beyond_the_budget_is_refused_before_it_is_decoded_and_a_small_one_is_not() -> None:
    probe = Probe()
    probe.leave.set()
    analyzer = analyzer_of(probe, estimate_bytes(64, 64))
    with pytest.raises(MaifsError) as caught:
        await analyse(analyzer, LARGE)
    assert caught.value.reason is Reason.EXCEEDS_MEMORY_BUDGET
    assert probe.most == 0
    assert (await analyse(analyzer, SMALL)).substrate.width_px == 64
    analyzer.close()


@pytest.mark.parametrize(
    "failure", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
async def test_memory_that_runs_out_in_a_tool_is_an_answer_and_the_service_goes_on(failure: Exception) -> None:
    probe = Probe(failure)
    analyzer = analyzer_of(probe, 2**30)
    with pytest.raises(MaifsError) as caught:
        await analyse(analyzer, SMALL)
    assert caught.value.reason is Reason.OUT_OF_MEMORY
    assert caught.value.retry_after_s > 0
    assert analyzer.memory.held_bytes == 0
    probe.failure = None
    probe.leave.set()
    assert await analyse(analyzer, SMALL)
    analyzer.close()


async def test_work_that_does_not_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    probe = Probe()
    analyzer = analyzer_of(probe, 2**30)
    assert analyzer.longest_work_s == 0.0
    task = asyncio.ensure_future(analyse(analyzer, SMALL))
    await asyncio.wait_for(probe.entered.wait(), 20)
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 1000)
    assert 1000 < analyzer.longest_work_s < 1100
    monkeypatch.undo()
    probe.leave.set()
    await task
    assert analyzer.longest_work_s == 0.0
    analyzer.close()


@pytest.fixture(name="cuda")
def _cuda(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What torch is told about a GPU of 40 GiB."""
    told: dict[str, object] = {}
    properties = SimpleNamespace(total_memory=40 << 30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.update(share=share))
    return told


def test_torch_is_bound_to_the_budget_on_a_gpu_and_left_alone_on_a_cpu(cuda: dict[str, object]) -> None:
    limit_device(CPU, 4 << 30)
    assert cuda == {}
    limit_device(torch.device("cuda:0"), 4 << 30)
    assert cuda == {"share": pytest.approx(0.1)}
    limit_device(torch.device("cuda:0"), 80 << 30)
    assert cuda == {"share": 1.0}
