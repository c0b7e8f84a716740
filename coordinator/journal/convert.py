"""Records of the journal as messages of maifs.coordinator.v1."""

from __future__ import annotations

from google.protobuf import timestamp_pb2
from google.rpc import status_pb2

from coordinator.journal.ownership import Scope
from coordinator.journal.records import BatchRecord, ItemRecord, ItemState
from maifs.coordinator.v1 import batch_pb2


def to_batch(batch: BatchRecord, problem: str, scope: Scope) -> batch_pb2.Batch:
    """A batch; `problem` concerns it only while items have not ended."""
    return batch_pb2.Batch(
        batch_id=scope.told(batch.batch_id),
        title=batch.title,
        options=batch_pb2.BatchOptions.FromString(batch.options),
        state=batch.state.value,  # type: ignore[arg-type]
        items_count=batch.items_count,
        reported_count=batch.reported_count,
        failed_count=batch.failed_count,
        cancelled_count=batch.cancelled_count,
        last_sequence=batch.last_sequence,
        create_time=_time(batch.create_time_ns),
        end_time=None if batch.queued_count else _time(batch.end_time_ns),
        problem=problem if batch.queued_count else "",
    )


def to_item(item: ItemRecord, *, running: bool = False) -> batch_pb2.BatchItem:
    """An item; whether it runs is not in the journal."""
    state = ItemState.RUNNING if running and item.state is ItemState.QUEUED else item.state
    message = batch_pb2.BatchItem(
        position=item.position,
        name=item.key.name,
        sha256=item.key.sha256,
        size_bytes=item.key.size_bytes,
        state=state.value,  # type: ignore[arg-type]
        sequence=item.sequence,
        verdict=item.verdict,  # type: ignore[arg-type]
        probability=item.probability,
        end_time=_time(item.end_time_ns),
    )
    if item.error:
        message.error.CopyFrom(status_pb2.Status.FromString(item.error))
    return message


def _time(time_ns: int | None) -> timestamp_pb2.Timestamp | None:
    if time_ns is None:
        return None
    time = timestamp_pb2.Timestamp()
    time.FromNanoseconds(time_ns)
    return time
