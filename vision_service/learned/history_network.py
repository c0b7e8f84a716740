"""A small network on JPEG coefficients and seams that maps where the processing history differs."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

BLOCK_PX = 8
CELL_PX = 2 * BLOCK_PX
"""Side of a cell of the map in pixels."""

FREQUENCIES = (1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18)
"""The first AC frequencies in zigzag order, as indices 8 v + u of a block."""
BINS = 16
"""Histogram bins of a coefficient's magnitude: 0, 1, .., 14, and 15 or more."""

HALO_PX = (1, 2)
"""Pixels before and after a block that its seams read."""

_LEVELS = len(FREQUENCIES) * BINS
_SEAM_CLIP = 16.0
_WIDTH = 48
_DILATIONS = (1, 2, 4, 2, 1)


def padded(luma: torch.Tensor) -> torch.Tensor:
    """Grey levels (N, H, W) with the halo that `seams` needs, (N, H + 3, W + 3)."""
    return functional.pad(luma[:, None], (*HALO_PX, *HALO_PX), mode="replicate")[:, 0]


def seams(luma: torch.Tensor) -> torch.Tensor:
    """Mean absolute third difference across each of the 8 columns and 8 rows of every block, log, (N, 16, h, w).

    A JPEG grid raises it between the phases at which blocks meet, resampling and denoising lower it everywhere.

    Args:
        luma: grey levels (N, 8 h + 3, 8 w + 3), HALO_PX before and after.
    """
    before, after = HALO_PX
    columns = _third_difference(luma[:, before:-after].transpose(1, 2))
    rows = _third_difference(luma[:, :, before:-after])
    count, height, width = rows.shape
    shape = (count, height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
    by_column = columns.transpose(1, 2).view(shape).mean(dim=2).permute(0, 3, 1, 2)
    by_row = rows.view(shape).mean(dim=4).permute(0, 2, 1, 3)
    return torch.cat([by_column, by_row], dim=1).add_(0.1).log_()


def _third_difference(luma: torch.Tensor) -> torch.Tensor:
    """Magnitude of the third difference along the second axis, clipped."""
    difference = luma[:, :-3] - luma[:, 3:]
    difference.sub_(luma[:, 1:-2], alpha=3).add_(luma[:, 2:-1], alpha=3)
    return difference.abs_().clamp_(max=_SEAM_CLIP)


class HistoryNetwork(nn.Module):
    """Coefficients and seams in, log odds of a foreign history per cell of CELL_PX and of the picture out.

    The histogram of each coefficient over the whole picture sets the weights by which each block's own coefficients
    are read (a learned form of the likelihood ratio of Bianchi, De Rosa and Piva, 2011): what is usual here is no
    trace. All layers work on blocks or on cells, none on pixels.
    """

    frequencies: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(FREQUENCIES), persistent=False)
        self.context = nn.Sequential(nn.Linear(_LEVELS + 64, 96), nn.ReLU(), nn.Linear(96, 4 * _LEVELS))
        self.levels = nn.Conv2d(_LEVELS, 32, 1)
        self.energies = nn.Conv2d(64, 24, 1)
        self.phases = nn.Conv2d(16, 16, 1)
        self.blocks = nn.Sequential(nn.BatchNorm2d(76), nn.ReLU())
        self.cells = nn.Conv2d(2 * 76, _WIDTH, 1)
        self.stages = nn.ModuleList(_Stage(dilation) for dilation in _DILATIONS)
        self.map = nn.Conv2d(_WIDTH, 1, 1)
        self.head = nn.Sequential(nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(
        self, coefficients: torch.Tensor, tables: torch.Tensor, phases: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log odds.

        Args:
            coefficients: quantised luma DCT coefficients (N, 64, h, w), float, frequency 8 v + u.
            tables: their quantisation tables (N, 64).
            phases: `seams` of the pixels (N, 16, h, w).

        Returns:
            Per cell (N, h // 2, w // 2), and per picture (N,).
        """
        magnitude = coefficients.abs()
        read = self._read_levels(magnitude[:, self.frequencies], tables)
        energy = (magnitude * tables[:, :, None, None]).log1p().div(2)
        parts = [read, self.energies(energy), self.phases(phases)]
        cells = functional.avg_pool2d(self.blocks(torch.cat(parts, dim=1)), 2)
        cells = self.cells(torch.cat([cells, cells - cells.mean(dim=(2, 3), keepdim=True)], dim=1))
        for stage in self.stages:
            cells = stage(cells)
        logits = self.map(cells)[:, 0]
        return logits, self.head(_summary(logits))[:, 0]

    def _read_levels(self, magnitude: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
        """The sum over frequencies of the weights of each block's bins, fixed ones and the picture's own."""
        count, _, height, width = magnitude.shape
        first = torch.arange(len(FREQUENCIES), device=magnitude.device) * BINS
        bins = magnitude.clamp(max=BINS - 1).long() + first.view(1, -1, 1, 1)
        bins += torch.arange(count, device=magnitude.device).view(-1, 1, 1, 1) * _LEVELS
        histogram = torch.bincount(bins.flatten(), minlength=count * _LEVELS).view(count, _LEVELS) / (height * width)
        own = self.context(torch.cat([histogram.sqrt(), tables.log() / 4], dim=1)).view(-1, 4, _LEVELS)
        weights = torch.cat([self.levels.weight[None, :, :, 0, 0].expand(count, -1, -1), own], dim=1)
        chosen = bins.permute(0, 2, 3, 1).reshape(-1, len(FREQUENCIES))
        summed = functional.embedding_bag(chosen, weights.transpose(1, 2).reshape(-1, 36).contiguous(), mode="sum")
        read = summed.view(count, height, width, 36).permute(0, 3, 1, 2)
        bias = torch.cat([self.levels.get_parameter("bias"), read.new_zeros(4)])
        return read + bias.view(1, -1, 1, 1)


def _summary(logits: torch.Tensor) -> torch.Tensor:
    """Means of the highest cells and moments of a map, (N, 7)."""
    ordered = logits.flatten(1).sort(dim=1, descending=True).values
    count = ordered.shape[1]
    tops = [ordered[:, : max(1, count // part)].mean(dim=1) for part in (128, 32, 12, 4, 1)]
    return torch.stack([*tops, ordered.std(dim=1), ordered[:, count // 2]], dim=1)


class _Stage(nn.Module):
    """A residual convolution with the picture's mean as context."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(_WIDTH)
        self.mean = nn.Linear(_WIDTH, _WIDTH)
        self.convolution = nn.Conv2d(_WIDTH, _WIDTH, 3, padding=dilation, dilation=dilation)

    def forward(self, cells: torch.Tensor) -> torch.Tensor:
        x = self.norm(cells)
        x = x + self.mean(x.mean(dim=(2, 3)))[:, :, None, None]
        out: torch.Tensor = cells + self.convolution(x.relu())
        return out
