"""Small autoencoders that leave the traces of other generators' upsampling: each is fitted for a minute to tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional

ByteArray = npt.NDArray[np.uint8]

_CROP_PX, _BATCH, _RATE = 64, 12, 2e-3
_WIDTH = 24


def _nearest() -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1))


def _bilinear() -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1))


def _transposed() -> nn.Module:
    return nn.ConvTranspose2d(_WIDTH, _WIDTH, 4, stride=2, padding=1)


def _shuffled() -> nn.Module:
    return nn.Sequential(nn.Conv2d(_WIDTH, 4 * _WIDTH, 3, padding=1), nn.PixelShuffle(2))


UPSAMPLERS: Mapping[str, Callable[[], nn.Module]] = {
    "nearest": _nearest,
    "bilinear": _bilinear,
    "transposed": _transposed,
    "shuffled": _shuffled,
}
"""How the decoders double the size: the ways of published generators (Odena et al. 2016; Karras et al. 2018, 2020)."""


class UpsamplingAutoencoder(nn.Module):
    """Two halvings by strided convolution to a narrow code, two doublings by one of UPSAMPLERS.

    Args:
        upsampler: name of the doubling.
        code: channels of the code at a quarter of the size; 48 would be no compression.
    """

    def __init__(self, upsampler: str, code: int) -> None:
        super().__init__()
        grow = UPSAMPLERS[upsampler]
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, _WIDTH, 3, padding=1), nn.LeakyReLU(0.1),
            nn.Conv2d(_WIDTH, 2 * _WIDTH, 4, stride=2, padding=1), nn.LeakyReLU(0.1), nn.Conv2d(2 * _WIDTH, code, 1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(code, _WIDTH, 3, padding=1), nn.LeakyReLU(0.1), grow(), nn.LeakyReLU(0.1),
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1), nn.LeakyReLU(0.1), grow(), nn.LeakyReLU(0.1),
            nn.Conv2d(_WIDTH, 3, 3, padding=1),
        )  # fmt: skip

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Reconstructions: (N, 3, H, W) in 0..1, sides multiples of 4, to the same shape, not clamped."""
        out: torch.Tensor = self.decoder(self.encoder(pictures - 0.5)) + 0.5
        return out


def fit(upsampler: str, code: int, tiles: npt.NDArray[np.uint8], steps: int, seed: int) -> UpsamplingAutoencoder:
    """An autoencoder fitted to random crops of tiles by the mean absolute error and that of first differences.

    Args:
        upsampler: name of the doubling.
        code: channels of the code.
        tiles: shape (n, H, W, 3).
        steps: batches.
        seed: fixes weights and crops.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = UpsamplingAutoencoder(upsampler, code)
    optimizer = torch.optim.Adam(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE * 2, total_steps=steps)
    for _ in range(steps):
        crops = _crops(tiles, rng)
        loss = _error(model(crops), crops)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
    model.eval()
    return model


def _crops(tiles: ByteArray, rng: np.random.Generator) -> torch.Tensor:
    chosen = rng.integers(0, len(tiles), _BATCH)
    places = rng.integers(0, tiles.shape[1] - _CROP_PX + 1, (_BATCH, 2))
    crops = [tiles[i, y : y + _CROP_PX, x : x + _CROP_PX] for i, (y, x) in zip(chosen, places, strict=True)]
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float().div_(255)


def _error(made: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    difference = made - wanted
    return functional.l1_loss(made, wanted) + difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
