"""Networks that the project defines, for weights in safetensors files, which hold numbers and no code."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

from vision_service.learned.residual_network import ResidualNetwork

ARCHITECTURES: Mapping[str, Callable[[], nn.Module]] = {"residual-net": ResidualNetwork}
"""By the name that a sidecar gives. All take (N, 3, H, W) in 0..1."""
