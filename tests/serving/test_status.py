from __future__ import annotations

import pickle

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from serving.errors import ExitCode, MaifsError, Reason
from serving.status import from_rpc_error, from_status, to_status


def test_every_reason_has_a_status_code_and_an_exit_code() -> None:
    for reason in Reason:
        assert isinstance(reason.code, grpc.StatusCode)
        assert reason.code is not grpc.StatusCode.OK
        assert reason.exit_code is not ExitCode.OK


def test_an_error_survives_the_wire() -> None:
    error = MaifsError(Reason.QUEUE_FULL, "full", "wait", retry_after_s=1.5)
    back = from_status(status_pb2.Status.FromString(to_status(error).SerializeToString()))
    assert (back.reason, back.message, back.advice, back.retry_after_s) == (Reason.QUEUE_FULL, "full", "wait", 1.5)


def test_a_status_carries_exactly_one_error_info() -> None:
    status = to_status(MaifsError(Reason.EMPTY_FILE, "empty"))
    infos = [d for d in status.details if d.Is(error_details_pb2.ErrorInfo.DESCRIPTOR)]
    assert len(infos) == len(status.details) == 1


def test_a_huge_message_is_cut_so_that_the_status_fits_into_metadata() -> None:
    assert to_status(MaifsError(Reason.INTERNAL, "x" * 100_000, "y" * 100_000)).ByteSize() < 4096


def test_a_foreign_status_becomes_a_backend_failure() -> None:
    assert from_status(status_pb2.Status(code=13, message="boom")).reason is Reason.BACKEND_FAILED


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, Reason.BACKEND_UNAVAILABLE),
        (grpc.StatusCode.INTERNAL, Reason.BACKEND_UNAVAILABLE),  # the connection broke in the middle of a send
        (grpc.StatusCode.UNKNOWN, Reason.BACKEND_FAILED),
    ],
)
def test_a_failed_call_without_details_is_told_by_its_code(code: grpc.StatusCode, reason: Reason) -> None:
    error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core")
    assert from_rpc_error(error, "The peer").reason is reason


def test_details_count_more_than_the_code_of_a_failed_call() -> None:
    trailers = grpc.aio.Metadata(
        ("grpc-status-details-bin", to_status(MaifsError(Reason.INTERNAL, "a bug")).SerializeToString())
    )
    error = grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailers)
    assert from_rpc_error(error, "The peer").reason is Reason.INTERNAL


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MaifsError(Reason.CORRUPT_IMAGE, "cut short", "send again")))
    assert (error.reason, str(error)) == (Reason.CORRUPT_IMAGE, "cut short send again")
