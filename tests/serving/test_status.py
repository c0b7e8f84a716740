from __future__ import annotations

import pickle

import grpc
from google.rpc import error_details_pb2, status_pb2

from serving.errors import ExitCode, MaifsError, Reason
from serving.status import from_status, to_status


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


def test_an_error_survives_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(MaifsError(Reason.CORRUPT_IMAGE, "cut short", "send again")))
    assert (error.reason, str(error)) == (Reason.CORRUPT_IMAGE, "cut short send again")
