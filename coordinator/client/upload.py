"""One picture as the steps of a stream; a file is read from disk just in time."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from coordinator.client.pictures import FilePicture, Picture
from maifs.common.v1 import image_pb2
from maifs.coordinator.v1 import coordinator_pb2
from serving.channel import CHUNK_BYTES
from serving.errors import MaifsError, Reason

Step = coordinator_pb2.AnalyzeStreamRequest


@dataclass(frozen=True)
class Opened:
    """A picture that can be read from its beginning, its size and its digest."""

    file: BinaryIO
    size_bytes: int
    sha256: bytes


async def steps(
    picture: Picture, item_id: str, options: coordinator_pb2.AnalyzeOptions, max_image_bytes: int
) -> AsyncGenerator[Step, None]:
    """The messages that carry a picture; at most one chunk of a file is in memory at a time.

    A file is read twice, for its digest and to send it, so that a change in between is noticed.

    Args:
        picture: what to send.
        item_id: name of the item on its stream.
        options: how to analyse.
        max_image_bytes: the coordinator's limit; larger files are not even read.

    Raises:
        MaifsError: FILE_UNREADABLE or IMAGE_TOO_LARGE before the first step; FILE_UNREADABLE later when the file
            shrinks while it is read, which leaves the item open.
    """
    opened = await asyncio.to_thread(open_picture, picture, max_image_bytes)
    try:
        begin = image_pb2.BeginItem(size_bytes=opened.size_bytes, sha256=opened.sha256, file_name=picture.wire_name)
        yield Step(item_id=item_id, begin=begin, options=options)
        offset = 0
        while offset < opened.size_bytes:
            size = min(CHUNK_BYTES, opened.size_bytes - offset)
            data = await asyncio.to_thread(read_chunk, opened.file, picture.name, size)
            yield Step(item_id=item_id, chunk=image_pb2.ItemChunk(offset_bytes=offset, data=data))
            offset += len(data)
        yield Step(item_id=item_id, end=image_pb2.EndItem())
    finally:
        opened.file.close()


def open_picture(picture: Picture, max_image_bytes: int) -> Opened:
    """Opens a picture and takes its digest.

    Raises:
        MaifsError: FILE_UNREADABLE, IMAGE_TOO_LARGE.
    """
    if isinstance(picture, FilePicture):
        if picture.fault:
            raise MaifsError(Reason.FILE_UNREADABLE, f"{picture.name!r}: {picture.fault}.")
        return _open_file(picture.path, max_image_bytes)
    _check_size(len(picture.data), max_image_bytes)
    return Opened(io.BytesIO(picture.data), len(picture.data), hashlib.sha256(picture.data).digest())


def _open_file(path: Path, max_image_bytes: int) -> Opened:
    try:
        # A FIFO without a writer would block an ordinary open for ever.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise _unreadable(str(path), error.strerror or str(error)) from error
    try:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _unreadable(str(path), "it is not a regular file")
        _check_size(status.st_size, max_image_bytes)
        digest = hashlib.file_digest(file, "sha256").digest()
        file.seek(0)
    except OSError as error:
        file.close()
        raise _unreadable(str(path), error.strerror or str(error)) from error
    except BaseException:
        file.close()
        raise
    return Opened(file, status.st_size, digest)


def _check_size(size_bytes: int, max_image_bytes: int) -> None:
    if size_bytes > max_image_bytes:
        raise MaifsError(
            Reason.IMAGE_TOO_LARGE,
            f"The file has {size_bytes:,} bytes; the coordinator takes {max_image_bytes:,}.",
            "Raise max_image_bytes in the configuration of the services if such files are expected.",
        )


def read_chunk(file: BinaryIO, name: str, size: int) -> bytes:
    """The next bytes.

    Raises:
        MaifsError: FILE_UNREADABLE, also at the end of the file.
    """
    try:
        data = file.read(size)
    except OSError as error:
        raise _unreadable(name, error.strerror or str(error)) from error
    if not data:
        raise _unreadable(name, "it became shorter while it was read")
    return data


def _unreadable(name: str, why: str) -> MaifsError:
    return MaifsError(
        Reason.FILE_UNREADABLE,
        f"{name!r} cannot be read: {why}.",
        "Check that it exists, that it is a file and that you may read it.",
    )
