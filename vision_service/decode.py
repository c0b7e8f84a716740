"""Decoding within this process: bytes in, `Substrate` out, or a clear error. Services use `decoding.decoder`."""

from __future__ import annotations

import io

import numpy as np
import torch

from vision_service.decoding.pictures import decode_picture
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate


def decode(data: bytes, limits: DecodeLimits, device: torch.device | None = None) -> Substrate:
    """Decodes the first frame of an image file.

    Args:
        data: the whole file.
        limits: refused beyond these.
        device: where the tensors of the substrate will live; CPU when not given.

    Raises:
        MaifsError: see `decode_picture`.
    """
    container, strips = decode_picture(io.BytesIO(data), limits)
    rgb = np.empty((container.height_px, container.width_px, 3), dtype=np.uint8)
    top = 0
    for strip in strips:
        rgb[top : top + len(strip)] = strip
        top += len(strip)
    return Substrate(data=data, container=container, rgb=rgb, device=device or torch.device("cpu"))
