"""Pictures decoded in bounded workers: what the service uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from serving.bounded.pool import Answer, BoundedPool, Bounds
from serving.bounded.shared import SharedFile
from vision_service.decoding.credentials import UnreadableCredentialsError
from vision_service.decoding.tasks import TASKS, container_of
from vision_service.jpeg import JpegData
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate


class Decoder:
    """Workers that decode pictures.

    Args:
        limits: what is refused, and what one step of decoding may take.
        workers: pictures that are decoded at a time.
        tasks: what the workers do, "package.module:function" by name.
    """

    def __init__(self, limits: DecodeLimits, workers: int, tasks: Mapping[str, str] = TASKS) -> None:
        self.limits = limits
        self._pool = BoundedPool(tasks, workers)
        self._pool.start()

    def open(self, data: bytes) -> OpenedPicture:
        """A picture's file, shown to the workers."""
        return OpenedPicture(data, self.limits, self._pool)

    def close(self) -> None:
        """Ends all workers."""
        self._pool.close()


class OpenedPicture:
    """One picture's file. Its methods block; they raise DECODER_FAILED when a codec crashed, hung or wanted too much
    memory. Satisfies `codecs.Codecs`.
    """

    def __init__(self, data: bytes, limits: DecodeLimits, pool: BoundedPool) -> None:
        self.data = data
        self._limits, self._pool = limits, pool
        self._file = SharedFile(data)
        self._pixels = 0

    def size(self) -> tuple[int, int]:
        """Width and height in pixels, from the header.

        Raises:
            MaifsError: see `pictures.decode_picture`.
        """
        width, height = self._call("size", self._file, asdict(self._limits)).value
        self._pixels = int(width) * int(height)
        return int(width), int(height)

    def decode(self, device: torch.device) -> Substrate:
        """The picture; call `size` first.

        Raises:
            MaifsError: see `pictures.decode_picture`.
        """
        answer = self._call("picture", self._file, asdict(self._limits), 3 * self._pixels)
        container = container_of(answer.value)
        shape = (container.height_px, container.width_px, 3)
        rgb = np.frombuffer(answer.buffers[0], dtype=np.uint8).reshape(shape)
        return Substrate(data=self.data, container=container, rgb=rgb, device=device, reader=self)

    def coefficients(self) -> JpegData | None:
        """See Codecs."""
        answer = self._call("coefficients", self._file, {}, 3 * self._pixels)  # of 4:2:0, the usual subsampling
        facts = answer.value
        if facts is None:
            return None
        shapes = facts.pop("shapes")
        planes = [
            np.frombuffer(buffer, dtype=np.int16).reshape(shape)
            for buffer, shape in zip(answer.buffers, shapes, strict=True)
        ]
        tables = tuple(np.array(table, dtype=np.int64) for table in facts.pop("tables"))
        return JpegData(luma=planes[0], chroma=tuple(planes[1:]), tables=tables, **facts)

    def credentials(self, container_format: str, trust_anchors_pem: str) -> str | None:
        """See Codecs."""
        parameters = {"container_format": container_format, "trust_anchors_pem": trust_anchors_pem}
        document, fault = self._call("credentials", self._file, parameters).value
        if fault is not None:
            raise UnreadableCredentialsError(fault)
        return None if document is None else str(document)

    def thumbnail(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        """See Codecs."""
        if not data:
            return None
        answer = self._call("thumbnail", SharedFile(data), {})
        return np.frombuffer(answer.buffers[0], dtype=np.uint8).reshape(answer.value) if answer.value else None

    def _call(self, task: str, file: SharedFile, parameters: dict[str, Any], expected_bytes: int = 0) -> Answer:
        memory_bytes = self._limits.decode_memory_bytes(self._pixels, len(self.data))
        bounds = Bounds(self._limits.max_decode_s, memory_bytes)
        return self._pool.call(task, file, parameters, bounds, expected_bytes)
