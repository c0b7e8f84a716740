"""Loads the network of a plug-in after its digest was checked, and proves on two tiles that it keeps its contract."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file

from serving.errors import MaifsError, Reason
from vision_service.learned.architectures import ARCHITECTURES
from vision_service.learned.card import NetworkInput, PluginCard, Weights
from vision_service.learned.tiling import prepare


@dataclass(frozen=True, eq=False)
class Answer:
    """What a network says of a batch of n tiles, on the CPU, finite."""

    map: torch.Tensor | None
    """float32 (n, tile / map_stride, tile / map_stride)."""
    score: torch.Tensor | None
    """float32 (n,)."""


Forward = Callable[[torch.Tensor], Any]
"""A batch (n, C, tile, tile) to what the network gives: a tensor, or (map, score)."""


class NetworkContractError(ValueError):
    """The network gave something else than its sidecar says."""


@dataclass(frozen=True, eq=False)
class Network:
    """A loaded network with its sidecar."""

    card: PluginCard
    forward: Forward
    device: torch.device

    @torch.inference_mode()
    def __call__(self, tiles: torch.Tensor) -> Answer:
        """Answers a batch of tiles.

        Args:
            tiles: float32 (n, C, tile_px, tile_px), prepared as the sidecar says.

        Raises:
            NetworkContractError: another number, shape or type of outputs than declared, or a value that is not finite.
        """
        given = self.forward(tiles.to(self.device))
        outputs = tuple(given) if isinstance(given, tuple | list) else (given,)
        kinds = self.card.output.kind.split("+")
        if len(outputs) != len(kinds):
            raise NetworkContractError(f"gives {len(outputs)} outputs; its sidecar declares {self.card.output.kind}")
        by_kind = dict(zip(kinds, outputs, strict=True))
        side = self.card.input.tile_px // self.card.output.map_stride_px
        cells = _checked("map", by_kind.get("map"), (len(tiles), 1, side, side))
        return Answer(None if cells is None else cells[:, 0], _checked("score", by_kind.get("score"), (len(tiles),)))


def _checked(name: str, output: object, shape: tuple[int, ...]) -> torch.Tensor | None:
    if output is None:
        return None
    if not isinstance(output, torch.Tensor) or not output.dtype.is_floating_point:
        raise NetworkContractError(f"its {name} is no tensor of floating-point numbers")
    if tuple(output.shape) != shape:
        raise NetworkContractError(f"its {name} has shape {tuple(output.shape)}; the contract asks for {shape}")
    if not bool(torch.isfinite(output).all()):
        raise NetworkContractError(f"its {name} holds values that are not finite")
    return output.to("cpu", torch.float32)


def load_network(card: PluginCard, device: torch.device) -> Network:
    """Reads, checks and tries a plug-in's network.

    Raises:
        MaifsError: MODEL_UNUSABLE when the file is missing, has another digest, is a pickle, does not fit, needs a
            package that is not installed, or breaks its contract on the trial tiles.
    """
    weights = card.weights
    _check_digest(card)
    try:
        forward = {"safetensors": _safetensors, "torchscript": _torchscript, "onnx": _onnx}[weights.format](
            weights, device
        )
        network = Network(card, forward, device)
        _try(network)
    except _UnusableError as error:
        raise unusable(card.path, str(error), error.advice) from error
    except Exception as error:
        detail = f"{weights.path.name} ({weights.format}): {type(error).__name__}: {str(error)[:300]}"
        raise unusable(card.path, detail, "Correct the weights or the sidecar.") from error
    return network


def unusable(sidecar: Path, detail: str, advice: str) -> MaifsError:
    """The refusal of a plug-in."""
    return MaifsError(
        Reason.MODEL_UNUSABLE,
        f"The plug-in {sidecar} cannot be used: {detail.rstrip('.')}.",
        f"{advice} Or take it out of the folder of plug-ins (docs/learned.md).",
    )


class _UnusableError(Exception):
    def __init__(self, message: str, advice: str) -> None:
        super().__init__(message)
        self.advice = advice


def _check_digest(card: PluginCard) -> None:
    weights = card.weights
    try:
        with weights.path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        detail = f"{weights.path} cannot be read: {error.strerror}"
        raise unusable(card.path, detail, "Put the weights beside the sidecar.") from error
    if found != weights.sha256:
        detail = f"{weights.path.name} has the SHA-256 {found}, the sidecar declares {weights.sha256}"
        raise unusable(card.path, detail, "Get the right file, or correct the digest if you trust this one.")


def _safetensors(weights: Weights, device: torch.device) -> Forward:
    build = ARCHITECTURES.get(weights.architecture)
    if build is None:
        known = ", ".join(ARCHITECTURES)
        raise _UnusableError(f"architecture {weights.architecture!r} is not known", f"There are: {known}.")
    try:
        state = load_file(weights.path)
    except safetensors.SafetensorError as error:
        raise _UnusableError(f"{weights.path.name} is no safetensors file: {error}", _NO_PICKLE) from error
    network = build()
    network.load_state_dict(state, strict=True)
    return network.to(device).eval()


_NO_PICKLE = "Pickles are never read; export to safetensors, TorchScript or ONNX."


def _torchscript(weights: Weights, device: torch.device) -> Forward:
    if not _is_torchscript(weights.path):
        raise _UnusableError(f"{weights.path.name} is no TorchScript archive", _NO_PICKLE)
    module: torch.jit.ScriptModule = torch.jit.load(weights.path, map_location=device)  # type: ignore[no-untyped-call]
    return module.eval()


def _is_torchscript(path: Path) -> bool:
    """A zip with a folder of code; what torch.save writes is a zip around a pickle and has none."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        inner = {name.partition("/")[2] for name in archive.namelist()}
    return "constants.pkl" in inner and any(name.startswith("code/") for name in inner)


def _onnx(weights: Weights, device: torch.device) -> Forward:
    if importlib.util.find_spec("onnxruntime") is None:
        raise _UnusableError(
            "ONNX needs the package onnxruntime, which is not installed",
            "Install it, or export to TorchScript.",
        )
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the service's workers are the parallelism
    wanted = ["CUDAExecutionProvider"] if device.type == "cuda" else []
    providers = [p for p in (*wanted, "CPUExecutionProvider") if p in runtime.get_available_providers()]
    session = runtime.InferenceSession(str(weights.path), options, providers=providers)
    name = session.get_inputs()[0].name

    def forward(tiles: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(np.asarray(o)) for o in session.run(None, {name: tiles.cpu().numpy()}))

    return forward


def _try(network: Network) -> None:
    """Two different tiles, twice: shapes and values must hold and both answers agree, or the network is random."""
    tiles = trial_tiles(network.card.input)
    first, second = network(tiles), network(tiles)
    for name in ("map", "score"):
        before, after = getattr(first, name), getattr(second, name)
        if before is not None and not torch.allclose(before, after, rtol=1e-3, atol=1e-4):
            raise NetworkContractError(f"its {name} differs between two runs on the same tiles; it is random")


def trial_tiles(wanted: NetworkInput) -> torch.Tensor:
    """A smooth and a noisy tile, prepared for the network."""
    side = wanted.tile_px
    ramp = np.broadcast_to(np.linspace(0, 255, side)[:, None], (side, side, 3))
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3))
    return prepare(np.stack([ramp, noise]).astype(np.uint8), wanted)
