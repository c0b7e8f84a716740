"""The device that tensors live on."""

from __future__ import annotations

import torch

from serving.errors import MaifsError, Reason


def choose_device(name: str) -> torch.device:
    """The torch device for a configured name.

    Args:
        name: "cpu", "cuda", "cuda:N" or "auto" (the first CUDA device when there is one, else the CPU).

    Raises:
        MaifsError: INVALID_CONFIG when a CUDA device is asked for that torch does not see.
    """
    count = torch.cuda.device_count()
    if name == "auto":
        return torch.device("cuda:0" if count else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= count:
        raise MaifsError(
            Reason.INVALID_CONFIG,
            f"vision.device is {name!r}, but torch {torch.__version__} sees {count} CUDA device(s).",
            "Check the driver and CUDA_VISIBLE_DEVICES, or set device = 'cpu'.",
        )
    return device


def describe_device(device: torch.device) -> str:
    """For people and status: "cpu" or "cuda:0 <name> GPU-<uuid>"."""
    if device.type == "cpu":
        return "cpu"
    properties = torch.cuda.get_device_properties(device)
    return f"cuda:{device.index or 0} {properties.name} GPU-{properties.uuid}"
