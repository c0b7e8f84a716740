"""spatial.fingerprint: where the processing history differs, by a network trained on splices of authentic pictures."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load

from vision_service.domain import HeatMap, Measurement, Observation, Outcome, Test, not_applicable
from vision_service.learned.history_network import CELL_PX, HistoryNetwork
from vision_service.substrate import Substrate
from vision_service.tools.spatial.fingerprint.history import History, read_history

ID = "spatial.fingerprint"
WEIGHTS = Path(__file__).with_name("history_net.safetensors")
SHA256 = "9731a8ea4f54da47538229d2a9f080cb73125080634836477a7bbb3127b62f82"

MIN_SIDE_PX = 128
MIN_TEXTURED_SHARE = 0.2


def run(substrate: Substrate) -> Observation:
    """Log odds that a region has another history than the rest: compression, resampling, filters, noise, repainting.

    Reads JPEG coefficients and the seams of blocks (Bianchi, De Rosa, Piva 2011 learned; Kwon et al., CAT-Net, 2021),
    at most `MAX_CELLS` cells, so the cost stops growing at 2 MP. It never reports a detection: it is a weight among
    others, and its map proves nothing.
    """
    if min(substrate.height_px, substrate.width_px) < MIN_SIDE_PX:
        return not_applicable("too_small", f"the short side must have {MIN_SIDE_PX} px for a map of histories")
    history = read_history(substrate)
    if history.textured_share < MIN_TEXTURED_SHARE:
        share = 100 * history.textured_share
        return not_applicable(
            "no_texture",
            f"{share:.0f} % of the blocks have texture to read; {100 * MIN_TEXTURED_SHARE:.0f} % are needed",
        )
    cells, score = log_odds(history)
    probability = 1.0 / (1.0 + np.exp(-cells.astype(np.float64)))
    return Observation(
        Outcome.TESTED,
        score=score,
        score_meaning="log odds of a network that a region has another processing history; 0 is undecided",
        explanation_key=f"{ID}.not_detected",
        measurements=(
            Measurement("share_of_cells_above_half", float((probability > 0.5).mean()), "1"),
            Measurement("strongest_cell", float(cells.max()), "1"),
            Measurement("cell_step", float(history.step), "count"),
        ),
        heat_map=_heat_map(substrate, probability, history.step),
    )


@torch.inference_mode()
def log_odds(history: History) -> tuple[npt.NDArray[np.float32], float]:
    """Log odds per cell read, (rows, columns), and of the picture."""
    network = _network(history.coefficients.device)
    cells, picture = network(history.coefficients, history.table, history.phases)
    return np.asarray(cells[0].float().cpu().numpy()), float(picture[0])


def load_weights(path: Path, sha256: str) -> HistoryNetwork:
    """The network with the weights of a file.

    Raises:
        ValueError: the file is not the one that was released.
    """
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != sha256:
        raise ValueError(f"{path.name} has SHA-256 {digest}, not {sha256}: it is damaged or another file")
    network = HistoryNetwork()
    network.load_state_dict(load(data), strict=True)
    return network.eval()


@cache
def _network(device: torch.device) -> HistoryNetwork:
    return load_weights(WEIGHTS, SHA256).to(device)


def _heat_map(substrate: Substrate, probability: npt.NDArray[np.float64], step: int) -> HeatMap:
    cell_px = CELL_PX
    rows, columns = substrate.height_px // cell_px, substrate.width_px // cell_px
    full = np.repeat(np.repeat(probability, step, axis=0), step, axis=1)[:rows, :columns]
    values = np.zeros((-(-substrate.height_px // cell_px), -(-substrate.width_px // cell_px)), np.uint8)
    values[:rows, :columns] = np.rint(255 * full).astype(np.uint8)
    return HeatMap(values, cell_px, "Bright cells look processed unlike the rest of the picture; this proves nothing.")


TEST = Test(
    id=ID,
    description="Regions whose compression, resampling, filtering or noise differs from the rest, by a trained network",
    source="after Bianchi, De Rosa, Piva: ICASSP 2011; Kwon, Yu, Nam, Lee: WACV 2021 (learned JPEG traces)",
    run=run,
)
