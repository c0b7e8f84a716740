"""RivaGAN marks by the encoder of the wheel invisible-watermark 0.2.0, and p-values on unmarked pictures."""

from __future__ import annotations

import functools
from importlib import metadata
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from benchmarks.camera import ByteArray
from vision_service.tools.watermark.dwt_marks import match_payload
from vision_service.tools.watermark.onnx_weights import read_float_tensors
from vision_service.tools.watermark.payloads import RIVAGAN_PAYLOADS, Payload
from vision_service.tools.watermark.rivagan import BITS, load_decoder, soft_bits

_STRENGTH = 0.016
"""Largest change of a pixel in the scheme, of a range of 2."""


@functools.cache
def _tensors() -> dict[str, torch.Tensor]:
    path = metadata.distribution("invisible-watermark").locate_file("imwatermark/rivagan_encoder.onnx")
    return {name: torch.from_numpy(v.copy()) for name, v in read_float_tensors(Path(str(path)).read_bytes()).items()}


def _layer(values: torch.Tensor, name: str) -> torch.Tensor:
    tensors = _tensors()
    return torch.tanh(
        functional.conv2d(values, tensors[f"{name}.weight"].squeeze(2), tensors[f"{name}.bias"], padding=5)
    )


def _norm(values: torch.Tensor, name: str) -> torch.Tensor:
    mean, variance, weight, bias = (
        _tensors()[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")
    )
    return functional.batch_norm(values, mean, variance, weight, bias)


def embed_rivagan(rgb: ByteArray, payload: Payload) -> ByteArray:
    """A marked copy, shape (H, W, 3).

    The scheme weighs the payload's bits by an attention over the picture and lets two layers turn the sum into a
    change of at most two grey levels.
    """
    frame = torch.from_numpy(np.ascontiguousarray(rgb[:, :, ::-1])).permute(2, 0, 1)[None].float() / 127.5 - 1.0
    with torch.inference_mode():
        attention = _norm(_layer(_norm(_layer(frame, "_attention.0"), "_attention.2"), "_attention.3"), "_attention.5")
        signs = torch.from_numpy(2.0 * payload.bits.astype(np.float32) - 1.0)[None, :, None, None]
        carrier = (torch.softmax(attention, dim=1) * signs).sum(dim=1, keepdim=True)
        change = _layer(_norm(_layer(torch.cat([frame, carrier], dim=1), "_conv.0"), "_conv.2"), "_conv.3")
        marked = (frame + _STRENGTH * change).clamp(-1.0, 1.0)
    return np.ascontiguousarray(((marked[0].permute(1, 2, 0) + 1.0) * 127.5).numpy().astype(np.uint8)[:, :, ::-1])


def null_p_values(rgb: ByteArray, payloads: int = 400) -> npt.NDArray[np.float64]:
    """p-values of an unmarked picture for the packaged payload (first) and for random ones, shape (1 + payloads,)."""
    rng = np.random.default_rng(7)
    random = [Payload("", rng.integers(0, 2, BITS).astype(np.int8)) for _ in range(payloads)]
    device = torch.device("cpu")
    bits = soft_bits(rgb, load_decoder(device), device)
    return np.array([10 ** match_payload(bits[None], p, period=1).log10_p for p in (*RIVAGAN_PAYLOADS, *random)])
