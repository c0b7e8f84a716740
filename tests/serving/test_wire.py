"""Requests that cannot be parsed."""

from __future__ import annotations

import pytest

from maifs.llm.v1 import llm_pb2
from serving.errors import Reason
from serving.wire import bad_text_fields, unreadable

GOOD, BAD = b"marker", b"\xff\xfeker!"
IMAGE = llm_pb2.ImagePart(data=BAD)


def request_bytes(**fields: object) -> bytes:
    """A GenerateRequest in which every "marker" has become text that is not UTF-8."""
    return llm_pb2.GenerateRequest(**fields).SerializeToString().replace(GOOD, BAD)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "fields"),
    [
        (request_bytes(adapter="marker"), ["adapter"]),
        (request_bytes(stop=["good", "marker"]), ["stop[1]"]),
        (
            request_bytes(messages=[llm_pb2.ChatMessage(content="good"), llm_pb2.ChatMessage(content="a marker")]),
            ["messages[1].content"],
        ),
        (request_bytes(messages=[llm_pb2.ChatMessage(content="marker", images=[IMAGE])]), ["messages[0].content"]),
        (request_bytes(messages=[llm_pb2.ChatMessage(content="good", images=[IMAGE])]), []),
        (b"\xff\xff\xff", []),
    ],
)
def test_text_that_is_not_utf8_is_found_by_its_path(data: bytes, fields: list[str]) -> None:
    assert bad_text_fields(llm_pb2.GenerateRequest.DESCRIPTOR, data) == fields


def test_bytes_that_are_no_message_are_said_to_be_none() -> None:
    error = unreadable(llm_pb2.GenerateRequest, b"\xff\xff\xff")
    assert error.reason is Reason.INVALID_REQUEST
    assert "maifs.llm.v1.GenerateRequest" in error.message
