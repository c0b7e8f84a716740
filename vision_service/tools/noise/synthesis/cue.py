"""noise.synthesis: whether the residual looks decoded from a latent space, by a network trained on aligned pairs."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.learned.crops import textured_crops
from vision_service.learned.residual_network import ResidualNetwork
from vision_service.substrate import Substrate

ID = "noise.synthesis"
WEIGHTS = Path(__file__).with_name("residual_net.safetensors")

CROP_PX, MAX_CROPS, MIN_CROPS = 128, 16, 4


def run(substrate: Substrate) -> Observation:
    """Mean log odds of synthesis over at most MAX_CROPS textured windows, so the cost does not grow with the picture.

    Trained on authentic photographs against their own reconstructions by decoders (Rajan et al., ICLR 2025), both
    with one later history, so that content, size and format tell nothing. It never reports a detection: some genuine
    web photographs score as high as generated pictures, so it is a weight among others.
    """
    places = textured_crops(substrate.rgb, CROP_PX, MAX_CROPS)
    if len(places) < MIN_CROPS:
        return not_applicable(
            "no_texture",
            f"only {len(places)} windows of {CROP_PX} px have texture to read; {MIN_CROPS} are needed",
        )
    crops = np.stack([substrate.rgb[top : top + CROP_PX, left : left + CROP_PX] for top, left in places])
    logits = log_odds(crops, substrate.device)
    return Observation(
        Outcome.TESTED,
        score=float(logits.mean()),
        score_meaning="mean log odds of a network that the residual was decoded by a generator; 0 is undecided",
        explanation_key=f"{ID}.not_detected",
        measurements=(
            Measurement("windows", float(len(places)), "count"),
            Measurement("share_of_windows_above_0", float((logits > 0).mean()), "1"),
            Measurement("spread_over_windows", float(logits.std()), "1"),
        ),
    )


@torch.inference_mode()
def log_odds(crops: npt.NDArray[np.uint8], device: torch.device) -> npt.NDArray[np.float32]:
    """Log odds of synthesis of windows (n, H, W, 3), shape (n,)."""
    batch = torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)
    logits: torch.Tensor = _network(device)(batch.to(device).float() / 255)
    return np.asarray(logits.float().cpu().numpy())


@cache
def _network(device: torch.device) -> ResidualNetwork:
    network = ResidualNetwork()
    network.load_state_dict(load_file(WEIGHTS), strict=True)
    return network.to(device).eval()


SYNTHESIS = Test(
    id=ID,
    description="Whether fine residuals look decoded by a generator, by a network trained on aligned pairs",
    source="Rajan, Ojha, Schloesser, Lee: ICLR 2025 (aligned pairs); Fridrich, Kodovsky: TIFS 2012 (residuals)",
    run=run,
)
