"""The sidecar of a plug-in: what the weights are, what the network takes and gives, and how much it may weigh."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from vision_service.calibration import NOTHING_FOUND_FLOOR, Curve, TestCalibration
from vision_service.domain import ToolName
from vision_service.learned.sidecar_table import SidecarTable

Format = Literal["safetensors", "torchscript", "onnx"]
Channels = Literal["rgb", "bgr", "luma"]
Kind = Literal["score", "map", "map+score"]

MIN_CALIBRATION_IMAGES = 8
"""Fewest images of either class behind a calibration that may weigh."""

CELL_PX = 8
"""Side in pixels of one cell of a plug-in's map in reports; tiles and strides are multiples of it."""

HYPOTHESES = ("manipulated", "ai_generated")

_MAX_TILE_PX = 4096


@dataclass(frozen=True)
class Weights:
    """The file with the weights."""

    path: Path
    format: Format
    sha256: str
    """Of the file, 64 lower-case hexadecimal digits."""
    architecture: str = ""
    """Name in `architectures.ARCHITECTURES`; for safetensors only, which hold no network."""


@dataclass(frozen=True)
class NetworkInput:
    """How a picture is handed to the network, as (N, C, tile_px, tile_px) float32."""

    tile_px: int
    stride_px: int
    """Distance of tiles; at most tile_px."""
    max_tiles: int = 64
    """Most tiles of a network without a map; a map always covers the whole picture."""
    channels: Channels = "rgb"
    low: float = 0.0
    """What black becomes."""
    high: float = 1.0
    """What white becomes."""
    mean: tuple[float, ...] = ()
    """Subtracted after scaling to low..high, a value for each channel; none when empty."""
    std: tuple[float, ...] = ()
    """Divides after `mean`."""

    @property
    def channel_count(self) -> int:
        """1 for luma, else 3."""
        return 1 if self.channels == "luma" else 3


@dataclass(frozen=True)
class NetworkOutput:
    """What the network gives and when it counts as a detection."""

    kind: Kind
    meaning: str
    """What a larger score means, one sentence."""
    map_stride_px: int = 1
    """Pixels of the picture for one value of the map."""
    low: float = 0.0
    """Least value of the map: shown as black."""
    high: float = 1.0
    threshold: float | None = None
    """Score from which the trace counts as detected; never without one, nor without a calibration."""


@dataclass(frozen=True)
class PluginCard:
    """A plug-in's sidecar."""

    path: Path
    """Of the sidecar."""
    name: str
    """snake_case."""
    version: str
    licence: str
    tool: ToolName
    """The tool among whose tests it appears."""
    description: str
    """What it looks for, one sentence."""
    source: str
    weights: Weights
    input: NetworkInput
    output: NetworkOutput
    calibration: Mapping[str, Curve]
    """By hypothesis; empty: its findings are shown without weight."""
    explanation: str = ""
    """What a detection means, for readers."""

    @property
    def test_id(self) -> str:
        """Id of its test."""
        return f"{self.tool.value}.plugin_{self.name}"

    @property
    def test_calibration(self) -> TestCalibration:
        """Its curves as the calibration holds them."""
        curves = {h: {"*": self.calibration[h]} for h in HYPOTHESES if h in self.calibration}
        return TestCalibration(curves.get("manipulated", {}), curves.get("ai_generated", {}))


def read_card(path: Path) -> tuple[PluginCard | None, list[str]]:
    """Reads a sidecar, TOML or JSON by its suffix.

    Returns:
        The card, or None and all that is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8")
        document: object = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (OSError, ValueError) as error:
        return None, [f"cannot be read: {error}"]
    faults: list[str] = []
    root = SidecarTable("", document, faults)
    plugin = root.table("plugin")
    weights, network_input = _weights(root.table("weights"), path.parent), _input(root.table("input"))
    output = _output(root.table("output"), network_input)
    curves = _calibration(root.table("calibration", optional=True))
    root.end()
    card = PluginCard(
        path=path,
        name=plugin.text("name", r"[a-z][a-z0-9_]{0,39}"),
        version=plugin.text("version"),
        licence=plugin.text("licence"),
        tool=ToolName(plugin.choice("tool", tuple(ToolName), ToolName.SPATIAL)),
        description=plugin.text("description"),
        source=plugin.text("source", default=""),
        weights=weights,
        input=network_input,
        output=output,
        calibration=curves,
        explanation=plugin.text("explanation", default=""),
    )
    plugin.end()
    return (None if faults else card), faults


def _weights(table: SidecarTable, folder: Path) -> Weights:
    kind = table.choice("format", get_args(Format))
    weights = Weights(
        path=folder / table.text("file", r"(?!\.)[^/\\]+"),
        format=kind,  # type: ignore[arg-type]
        sha256=table.text("sha256", r"[0-9a-f]{64}"),
        architecture=table.text("architecture", r"[a-z0-9-]+", None if kind == "safetensors" else ""),
    )
    table.end()
    return weights


def _input(table: SidecarTable) -> NetworkInput:
    tile = table.whole("tile_px", 2 * CELL_PX, _MAX_TILE_PX)
    channels = table.choice("channels", get_args(Channels), "rgb")
    count = 1 if channels == "luma" else 3
    low, high = table.range("range")
    made = NetworkInput(
        tile_px=tile,
        stride_px=table.whole("stride_px", CELL_PX, tile, tile),
        max_tiles=table.whole("max_tiles", 1, 4096, 64),
        channels=channels,  # type: ignore[arg-type]
        low=low,
        high=high,
        mean=table.numbers("mean", count),
        std=table.numbers("std", count),
    )
    for key in ("tile_px", "stride_px"):
        if getattr(made, key) % CELL_PX:
            table.fault(key, f"is {getattr(made, key)}; it must be a multiple of {CELL_PX}")
    if any(value <= 0 for value in made.std):
        table.fault("std", f"is {list(made.std)}; its values must be above 0")
    table.end()
    return made


def _output(table: SidecarTable, network_input: NetworkInput) -> NetworkOutput:
    low, high = table.range("map_range")
    output = NetworkOutput(
        kind=table.choice("kind", get_args(Kind)),  # type: ignore[arg-type]
        meaning=table.text("meaning"),
        map_stride_px=table.whole("map_stride_px", 1, CELL_PX, 1),
        low=low,
        high=high,
        threshold=table.optional_number("threshold"),
    )
    if CELL_PX % output.map_stride_px or network_input.tile_px % output.map_stride_px:
        table.fault("map_stride_px", f"is {output.map_stride_px}; it must be 1, 2, 4 or 8")
    table.end()
    return output


def _calibration(table: SidecarTable) -> dict[str, Curve]:
    curves = {h: _curve(table.table(h)) for h in HYPOTHESES if table.has(h)}
    table.end()
    return curves


def _curve(table: SidecarTable) -> Curve:
    """The cap never exceeds log10(n + 1) for n images of the smaller class, whatever the sidecar wishes."""
    n_target = table.whole("n_target", MIN_CALIBRATION_IMAGES, 10**9)
    n_authentic = table.whole("n_authentic", MIN_CALIBRATION_IMAGES, 10**9)
    supported = math.log10(min(n_target, n_authentic) + 1)
    slope, intercept = table.number("slope"), table.number("intercept")
    cap = table.number("cap", supported)
    if slope < 0:
        table.fault("slope", f"is {slope}; it must be >= 0: more trace must never mean less weight")
    if cap < 0:
        table.fault("cap", f"is {cap}; it must be >= 0")
    table.end()
    return Curve(slope, intercept, min(cap, supported), n_target, n_authentic, NOTHING_FOUND_FLOOR)
