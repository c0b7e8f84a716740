"""Requests that cannot be parsed: which field is at fault?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import DecodeError, Message

from serving.errors import MaifsError, Reason

_Field = descriptor_pb2.FieldDescriptorProto


def unreadable(message_type: type[Message], data: bytes) -> MaifsError:
    """The error for bytes that are no message of this type: INVALID_REQUEST that names text fields with bad UTF-8."""
    fields = bad_text_fields(message_type.DESCRIPTOR, data)
    if fields:
        return MaifsError(Reason.INVALID_REQUEST, f"{', '.join(fields[:8])}: must be valid UTF-8.")
    return MaifsError(Reason.INVALID_REQUEST, f"The request is not a {message_type.DESCRIPTOR.full_name}.")


def bad_text_fields(descriptor: Any, data: bytes) -> list[str]:
    """Paths of the text fields whose bytes are not UTF-8, e.g. "messages[0].content"; empty when data is no message."""
    try:
        message = _twin(descriptor).FromString(data)
    except DecodeError:
        return []
    return list(_bad_fields(descriptor, message, ""))


def _bad_fields(descriptor: Any, twin: Message, path: str) -> Iterator[str]:
    for field, value in twin.ListFields():
        original = descriptor.fields_by_name[field.name]
        repeated = original.is_repeated
        for index, item in enumerate(value if repeated else (value,)):
            name = f"{path}{field.name}[{index}]" if repeated else f"{path}{field.name}"
            if original.message_type is not None and isinstance(item, Message):
                yield from _bad_fields(original.message_type, item, f"{name}.")
            elif original.type == original.TYPE_STRING and not _is_utf8(item):
                yield name


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


@lru_cache(maxsize=64)
def _twin(descriptor: Any) -> Any:
    """The same message with bytes in place of text, so that it parses whatever the text is."""
    pool = descriptor_pool.DescriptorPool()
    _add(pool, descriptor.file, set())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(descriptor.full_name))


def _add(pool: descriptor_pool.DescriptorPool, file: FileDescriptor, done: set[str]) -> None:
    if file.name in done:
        return
    done.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, done)
    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    for message in proto.message_type:
        _text_to_bytes(message)
    pool.Add(proto)


def _text_to_bytes(message: descriptor_pb2.DescriptorProto) -> None:
    for field in message.field:
        if field.type == _Field.TYPE_STRING:
            field.type = _Field.TYPE_BYTES
            field.ClearField("default_value")
    for nested in message.nested_type:
        if not nested.options.map_entry:  # a key cannot be bytes
            _text_to_bytes(nested)
