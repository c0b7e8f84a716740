"""What bounded workers do with a picture's file. Each returns a JSON value and puts arrays into shared memory."""

from __future__ import annotations

import base64
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from serving.bounded.worker import Call
from vision_service.container import Container
from vision_service.decoding.credentials import UnreadableCredentialsError, read_document
from vision_service.decoding.pictures import decode_picture, read_size
from vision_service.decoding.thumbnails import decode_thumbnail
from vision_service.jpeg import read_jpeg_file
from vision_service.limits import DecodeLimits

TASKS = {name: f"{__name__}:{name}" for name in ("size", "picture", "coefficients", "credentials", "thumbnail")}
"""By name, for a pool."""

_BYTES_FIELDS = ("xmp", "thumbnail")


def size(call: Call) -> list[int]:
    """Width and height in pixels, from the header."""
    with call.open() as file:
        return list(read_size(file, DecodeLimits(**call.parameters)))


def picture(call: Call) -> dict[str, Any]:
    """Container facts; the buffer is the pixels, (height, width, 3)."""
    with call.open() as file:
        container, strips = decode_picture(file, DecodeLimits(**call.parameters))
        call.put(strips)
    fields = {name: base64.b64encode(getattr(container, name)).decode() for name in _BYTES_FIELDS}
    return asdict(replace(container, xmp=b"", thumbnail=b"")) | fields


def container_of(value: dict[str, Any]) -> Container:
    """The container facts that `picture` returned."""
    return Container(**value | {name: base64.b64decode(value[name]) for name in _BYTES_FIELDS})


def coefficients(call: Call) -> dict[str, Any] | None:
    """Facts of a JPEG file; the buffers are the coefficients of each component, int16."""
    jpeg = read_jpeg_file(call.path)
    if jpeg is None:
        return None
    planes = (jpeg.luma, *jpeg.chroma)
    for plane in planes:
        call.put([np.ascontiguousarray(plane)])
    return {
        "shapes": [plane.shape for plane in planes],
        "tables": [table.tolist() for table in jpeg.tables],
        "subsampling": jpeg.subsampling,
        "progressive": jpeg.progressive,
        "quality": jpeg.quality,
        "standard_tables": jpeg.standard_tables,
    }


def credentials(call: Call) -> list[str | None]:
    """The JSON text of the manifest store or None, and why it could not be read, or None."""
    with call.open() as file:
        try:
            return [read_document(file, **call.parameters), None]
        except UnreadableCredentialsError as error:
            return [None, str(error)]


def thumbnail(call: Call) -> list[int] | None:
    """Height and width; the buffer is the grey values."""
    grey = decode_thumbnail(call.read())
    if grey is None:
        return None
    call.put([np.ascontiguousarray(grey)])
    return list(grey.shape)
