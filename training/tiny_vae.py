"""A tiny autoencoder of a diffusion model's latent space, run from its published weights (madebyollin/taesd, MIT)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

LATENT_STRIDE = 8
"""Pixels of the picture per latent cell."""

_POOL_GROUPS = 4


class TinyVae:
    """Encoder and decoder: stacks of three-convolution residual blocks, four scales, nearest-neighbour upsampling.

    Args:
        folder: holds `taef2_encoder.pth` and `taef2_decoder.pth`.
        dtype: of the convolutions; bfloat16 halves the time. The last layer is always float32.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        self._dtype = dtype
        self._encoder = _read(folder / "taef2_encoder.pth", dtype)
        self._decoder = _read(folder / "taef2_decoder.pth", dtype)

    @torch.inference_mode()
    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Latents of pictures: (N, 3, H, W) in 0..1, sides multiples of 8, to (N, 32, H / 8, W / 8) float32."""
        x = pictures.to(self._dtype).contiguous(memory_format=torch.channels_last)
        for layer in _layers(self._encoder):
            if f"{layer}.conv.0.weight" in self._encoder:
                x = _block(self._encoder, layer, x)
            else:
                x = _conv(self._encoder, f"{layer}", x, stride=1 if f"{layer}.bias" in self._encoder else 2)
        return x.float()

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures of latents: (N, 32, h, w) to (N, 3, 8 h, 8 w) in 0..1."""
        x = torch.tanh(latents / 3).mul(3).to(self._dtype).contiguous(memory_format=torch.channels_last)
        *layers, last = _layers(self._decoder)
        for layer in layers:
            if f"{layer}.conv.0.weight" in self._decoder:
                x = _block(self._decoder, layer, x)
            elif f"{layer}.bias" in self._decoder:
                x = _conv(self._decoder, f"{layer}", x).relu_()
            else:
                x = _conv(self._decoder, f"{layer}", functional.interpolate(x, scale_factor=2, mode="nearest"))
        weight, bias = self._decoder[f"{last}.weight"].float(), self._decoder[f"{last}.bias"].float()
        return functional.conv2d(x.float(), weight, bias, padding=1).clamp_(0, 1)


def _read(path: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    return {
        name: value.to(dtype).contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value.to(dtype)
        for name, value in state.items()
    }


def _layers(state: dict[str, torch.Tensor]) -> list[int]:
    return sorted({int(name.partition(".")[0]) for name in state})


def _conv(state: dict[str, torch.Tensor], name: str, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
    return functional.conv2d(x, state[f"{name}.weight"], state.get(f"{name}.bias"), stride=stride, padding=1)


def _block(state: dict[str, torch.Tensor], layer: int, x: torch.Tensor) -> torch.Tensor:
    if f"{layer}.pool.0.weight" in state:
        y = functional.conv2d(x, state[f"{layer}.pool.0.weight"])
        y = functional.group_norm(y, _POOL_GROUPS, state[f"{layer}.pool.1.weight"], state[f"{layer}.pool.1.bias"])
        x = x + functional.conv2d(y.relu_(), state[f"{layer}.pool.3.weight"])
    y = _conv(state, f"{layer}.conv.0", x).relu_()
    y = _conv(state, f"{layer}.conv.2", y).relu_()
    return (_conv(state, f"{layer}.conv.4", y) + x).relu_()
