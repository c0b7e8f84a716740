"""A client that does not read what it asked for: it costs the coordinator next to nothing, and holds up nobody."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import grpc

from maifs.coordinator.v1 import batch_pb2, batch_pb2_grpc
from serving.channel import MAX_MESSAGE_BYTES
from tests.batch_kills import Backends, Fleet
from tests.coordinator.batches import SEAL, begin, chunk, end, offer
from tests.processes import socket_folder

REPORTS = 150
MAP_BYTES = 400_000
ALLOWED_MIB = 40
"""A few reports of a page, gRPC's buffers, and the allocator's slack; all reports are 57 MiB for each client."""


def memory_mib(pid: int) -> float:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found.group(1)) / 1024


def submit(stub: Any, batch_id: str, count: int) -> None:
    requests = [begin(batch_id)]
    for number in range(count):
        data = f"{batch_id} {number}".encode()
        requests += [offer(f"{number}.jpg", data), chunk(f"{number}.jpg", data), end(f"{number}.jpg")]
    answers = [answer.WhichOneof("event") for answer in stub.SubmitBatch(iter([*requests, SEAL]), timeout=60)]
    assert answers.count("accepted") == count


def finish(stub: Any, batch_id: str) -> int:
    """Waits for the batch; returns how many items ended."""
    request = batch_pb2.WatchBatchRequest(batch_id=batch_id, skip_reports=True)
    return sum(response.HasField("ended") for response in stub.WatchBatch(request, timeout=120))


def test_watchers_that_do_not_read_cost_bounded_memory_and_hold_up_nobody() -> None:
    backends = Backends(vision=("tests.coordinator.simulated_process", "vision", "--map-bytes", str(MAP_BYTES)))
    options = [("grpc.max_receive_message_length", MAX_MESSAGE_BYTES), ("grpc.use_local_subchannel_pool", 1)]
    with socket_folder() as folder, Fleet(folder, backends) as fleet:
        address = fleet.addresses["coordinator"]
        pid = fleet.processes["coordinator"].process.pid
        channels = [grpc.insecure_channel(address, options=options) for _ in range(4)]
        stubs: list[Any] = [batch_pb2_grpc.BatchServiceStub(channel) for channel in channels]
        submit(stubs[0], "warm-up", REPORTS)
        assert finish(stubs[0], "warm-up") == REPORTS
        before = memory_mib(pid)
        calls = [stub.WatchBatch(batch_pb2.WatchBatchRequest(batch_id="b", progress=True)) for stub in stubs[1:]]
        submit(stubs[0], "b", REPORTS)
        calls += [stub.WatchBatch(batch_pb2.WatchBatchRequest(batch_id="b", progress=True)) for stub in stubs[1:]]
        assert finish(stubs[0], "b") == REPORTS
        highest = 0.0
        for _ in range(10):
            highest = max(highest, memory_mib(pid))
            time.sleep(0.1)
        for call in calls:
            call.cancel()
        for channel in channels:
            channel.close()
    print(f"resident memory: {before:.0f} MiB before, {highest:.0f} MiB with six watchers that do not read")
    assert highest - before < ALLOWED_MIB
