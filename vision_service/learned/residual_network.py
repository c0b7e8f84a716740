"""A small convolutional network on high-pass residuals: the architecture "residual-net"."""

from __future__ import annotations

import torch
from torch import nn

RESIDUALS = 9
"""Channels of the fixed front end."""

_CLIP = 8.0  # grey levels: residuals are squashed, so that edges do not drown the texture
_LUMA = (0.299, 0.587, 0.114)


class ResidualFrontEnd(nn.Module):
    """Fixed high-pass filters as in steganalysis (Fridrich and Kodovsky 2012), squashed by tanh.

    First differences in two directions, second and third differences, the 5 x 5 KV filter of luma; Laplacians of the
    differences R - G and B - G.
    """

    kernels: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", _kernels(), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) in 0..1 to (N, RESIDUALS, H - 4, W - 4), about -1..1."""
        levels = pictures * 255.0
        red, green, blue = levels[:, 0:1], levels[:, 1:2], levels[:, 2:3]
        luma = _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue
        on_luma = nn.functional.conv2d(luma, self.kernels)
        colour = torch.cat([red - green, blue - green], dim=1)
        laplacian = self.kernels[4:5].expand(2, 1, 5, 5)
        on_colour = nn.functional.conv2d(colour, laplacian, groups=2)
        return torch.tanh(torch.cat([on_luma, on_colour], dim=1) / _CLIP)


def _kernels() -> torch.Tensor:
    """Shape (7, 1, 5, 5): d/dx, d/dy, d2/dx2, d2/dy2, Laplacian, third difference along the diagonal pair, KV."""
    kernels = torch.zeros(7, 5, 5)
    kernels[0, 2, 2:4] = torch.tensor([-1.0, 1.0])
    kernels[1, 2:4, 2] = torch.tensor([-1.0, 1.0])
    kernels[2, 2, 1:4] = torch.tensor([0.5, -1.0, 0.5])
    kernels[3, 1:4, 2] = torch.tensor([0.5, -1.0, 0.5])
    kernels[4, 1:4, 1:4] = torch.tensor([[-1.0, 2.0, -1.0], [2.0, -4.0, 2.0], [-1.0, 2.0, -1.0]]) / 4
    for i, value in enumerate((1.0, -3.0, 3.0, -1.0)):
        kernels[5, 2, i] += value / 6
        kernels[5, i, 2] += value / 6
    kernels[6] = torch.tensor(
        [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
    ) / 12.0  # fmt: skip
    return kernels[:, None]


class ResidualNetwork(nn.Module):
    """Fixed residuals, five convolutions, mean and deviation over the picture, one logit.

    Args:
        widths: channels of the five convolutions; all but the first and the last halve the size.
    """

    def __init__(self, widths: tuple[int, int, int, int, int] = (16, 32, 48, 64, 64)) -> None:
        super().__init__()
        self.residuals = ResidualFrontEnd()
        steps = zip((RESIDUALS, *widths), widths, (1, 2, 2, 2, 1), strict=False)
        self.features = nn.Sequential(*(_stage(before, after, stride) for before, after, stride in steps))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * widths[-1], 1))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Logits (N,) of pictures (N, 3, H, W) in 0..1, sides of at least 48; larger = more like synthesis."""
        maps = self.features(self.residuals(pictures))
        pooled = torch.cat([maps.mean(dim=(2, 3)), maps.flatten(2).std(dim=2)], dim=1)
        logits: torch.Tensor = self.head(pooled)[:, 0]
        return logits


def _stage(before: int, after: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(before, after, 3, stride=stride, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(inplace=True))
