"""The forensic test that a plug-in is: tiles in, score and map out, as an observation among the others."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.learned.card import CELL_PX
from vision_service.learned.networks import Network
from vision_service.learned.tiling import MapCanvas, cut, prepare, spread, tile_places
from vision_service.substrate import Substrate

_BATCH_PIXELS = 1 << 20
"""Pixels of a batch: bounds memory whatever the tile."""

_MAP_SCORE_QUANTILE = 0.99
"""A network that gives a map alone scores by this quantile of its cells: an edit of one cell in a hundred shows."""


def as_test(network: Network) -> Test:
    """The test of a loaded plug-in."""
    card = network.card
    return Test(
        id=card.test_id,
        description=f"{card.description} (plug-in {card.name} {card.version})",
        source=card.source or f"plug-in {card.name} {card.version}, {card.licence}",
        run=partial(run, network),
    )


def run(network: Network, substrate: Substrate) -> Observation:
    """Runs the network over the tiles of a picture.

    The score is the mean over tiles of a network that gives one, else a high quantile of its map. A plug-in without
    a calibration never detects anything.

    Raises:
        NetworkContractError: the network broke its contract on this picture, which fails this test alone.
    """
    card = network.card
    height, width = substrate.height_px, substrate.width_px
    places = tile_places(height, width, card.input)
    if not places:
        side = card.input.tile_px
        return not_applicable("too_small", f"the picture has {width} x {height} px; a tile has {side} px a side")
    if card.output.kind == "score":
        places = spread(places, card.input.max_tiles)
    scores, canvas = _answers(network, substrate, places)
    score = float(np.mean(scores)) if scores else float(np.quantile(canvas.covered, _MAP_SCORE_QUANTILE))
    calibrated, threshold = bool(card.calibration), card.output.threshold
    detected = calibrated and threshold is not None and score >= threshold
    variant = ("detected" if detected else "not_detected") if calibrated else "uncalibrated"
    return Observation(
        Outcome.TESTED,
        score=score,
        score_meaning=card.output.meaning,
        detected=detected,
        explanation_key=f"plugin.{variant}",
        measurements=(Measurement("tiles", float(len(places)), "count"),),
        heat_map=_heat_map(network, canvas) if "map" in card.output.kind else None,
        details=_details(network),
    )


def _answers(network: Network, substrate: Substrate, places: list[tuple[int, int]]) -> tuple[list[float], MapCanvas]:
    side, stride = network.card.input.tile_px, network.card.output.map_stride_px
    scores: list[float] = []
    canvas = MapCanvas(substrate.height_px, substrate.width_px)
    step = max(1, _BATCH_PIXELS // (side * side))
    for start in range(0, len(places), step):
        batch = places[start : start + step]
        answer = network(prepare(cut(substrate.rgb, batch, side), network.card.input))
        scores += [] if answer.score is None else answer.score.tolist()
        for (top, left), cells in zip(batch, _maps(answer.map), strict=False):
            canvas.add(cells, top, left, stride)
    return scores, canvas


def _maps(maps: torch.Tensor | None) -> list[torch.Tensor]:
    return [] if maps is None else list(maps)


def _heat_map(network: Network, canvas: MapCanvas) -> HeatMap:
    output = network.card.output
    share = (canvas.values(output.low) - output.low) / (output.high - output.low)
    values = np.clip(np.rint(255 * share), 0, 255).astype(np.uint8)
    return HeatMap(values, CELL_PX, f"Map of the plug-in {network.card.name}; bright: {output.meaning}")


def _details(network: Network) -> dict[str, str]:
    card = network.card
    known = {"plugin": f"{card.name} {card.version}", "licence": card.licence, "explanation": card.explanation}
    return {key: text for key, text in known.items() if text}
