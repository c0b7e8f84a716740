"""Reads the named tensors of an ONNX file without an ONNX runtime: only data, no graph is run."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

_GRAPH, _INITIALIZER = 7, 5  # onnx.proto: ModelProto.graph, GraphProto.initializer
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9  # TensorProto
_FLOAT = 1
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def read_float_tensors(model: bytes) -> dict[str, npt.NDArray[np.float32]]:
    """The float32 initialisers of a model by name, as stored.

    Raises:
        ValueError: the bytes are no ONNX model, or a tensor's size does not fit its dimensions.
    """
    graph = next((value for field, value in _fields(model) if field == _GRAPH and isinstance(value, bytes)), b"")
    found: dict[str, npt.NDArray[np.float32]] = {}
    for field, value in _fields(graph):
        if field == _INITIALIZER and isinstance(value, bytes):
            found.update(_tensor(value))
    if not found:
        raise ValueError("no float tensors: not an ONNX model with weights")
    return found


def _tensor(message: bytes) -> dict[str, npt.NDArray[np.float32]]:
    shape: list[int] = []
    name, raw, kind = "", b"", 0
    for field, value in _fields(message):
        if field == _DIMS:
            shape += [value] if isinstance(value, int) else _varints(value)
        elif field == _DATA_TYPE and isinstance(value, int):
            kind = value
        elif isinstance(value, bytes) and field == _NAME:
            name = value.decode("utf-8")
        elif isinstance(value, bytes) and field == _RAW_DATA:
            raw = value
    return {name: np.frombuffer(raw, dtype="<f4").reshape(shape)} if kind == _FLOAT else {}


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values of one protobuf message."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == _VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED_64, _FIXED_32):
            length = 8 if kind == _FIXED_64 else 4
        else:
            raise ValueError(f"wire type {kind} at byte {position}: not an ONNX model")
        if position + length > len(message):
            raise ValueError(f"a field of {length} bytes at byte {position} is cut short")
        yield key >> 3, message[position : position + length]
        position += length


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(message) and shift < 64:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError(f"a number at byte {position} is cut short: not an ONNX model")


def _varints(packed: bytes) -> list[int]:
    values, position = [], 0
    while position < len(packed):
        value, position = _varint(packed, position)
        values.append(value)
    return values
