"""Measures a network of the AI cue on labelled pictures it was not trained on: `python -m training.evaluate`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from training.photographs import PERMITTED_SOURCE
from vision_service.labelled import Item, read_manifest
from vision_service.laundering import RUNGS, decode_rgb
from vision_service.learned.crops import textured_crops
from vision_service.learned.residual_network import ResidualNetwork

CROP_PX, MAX_CROPS, MIN_CROPS = 128, 16, 4


@torch.inference_mode()
def picture_score(network: ResidualNetwork, rgb: npt.NDArray[np.uint8]) -> float | None:
    """Mean logit over textured windows; None where there are fewer than MIN_CROPS."""
    places = textured_crops(rgb, CROP_PX, MAX_CROPS)
    if len(places) < MIN_CROPS:
        return None
    crops = np.stack([rgb[top : top + CROP_PX, left : left + CROP_PX] for top, left in places])
    return float(network(torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255).mean())


def auc(higher: Sequence[float], lower: Sequence[float]) -> float:
    """Probability that a value of `higher` is above one of `lower`, ties half."""
    a, b = np.array(higher)[:, None], np.array(lower)[None]
    return float(((a > b) + (a == b) / 2).mean())


def figures(network: ResidualNetwork, items: Sequence[Item], rung: str) -> str:
    """AUC pooled, of each generator against all authentic pictures, and of all generators against each source."""
    scores: dict[tuple[str, str], list[float]] = {}
    for item in items:
        score = picture_score(network, decode_rgb(RUNGS[rung](item.path.read_bytes())))
        if score is not None:
            scores.setdefault((item.label, item.source), []).append(score)
    by_label = {label: [s for (of, _), part in scores.items() if of == label for s in part] for label, _ in scores}
    made, real = by_label["ai_generated"], by_label["authentic"]
    lines = [f"{rung}: AUC {auc(made, real):.3f} ({len(made)} AI generated, {len(real)} authentic)"]
    for (label, source), part in sorted(scores.items()):
        value = auc(part, real) if label == "ai_generated" else auc(made, part)
        lines.append(f"  {label:13s} {source:28s} n {len(part):3d}  AUC {value:.2f}  median {np.median(part):+.2f}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/manifest.csv")
    parser.add_argument("--weights", type=Path, required=True, help="safetensors file of training.ai_cue")
    parser.add_argument("--rungs", nargs="+", default=["native", "laundered"], choices=list(RUNGS))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    network = ResidualNetwork()
    network.load_state_dict(load_file(options.weights))
    network.eval()
    labels = ("authentic", "ai_generated")
    items = [
        item
        for item in read_manifest(options.data / "photos")
        if item.source != PERMITTED_SOURCE and item.label in labels
    ]
    for rung in options.rungs:
        print(figures(network, items, rung))
    return 0


if __name__ == "__main__":
    sys.exit(main())
