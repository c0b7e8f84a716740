"""Trains the network that maps foreign processing histories: `python -m training.fingerprint --data DIR --out FILE`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file
from torch.nn import functional

from training.base_tiles import base_tiles
from training.photographs import permitted_photographs
from training.splices import Splice, SpliceMaker
from vision_service.jpeg import read_jpeg
from vision_service.learned.history_network import CELL_PX, HistoryNetwork, padded, seams

_log = logging.getLogger(__name__)

PER_BATCH = 12
TILES_PER_PHOTOGRAPH = 8
"""Beside those of `training.pairs`, which come with a reconstruction."""
REPLAY, REPLAYED_SHARE = 6000, 0.65
"""Splices kept, and the share of a batch that comes from them, turned and mirrored anew."""
PEAK_RATE = 3e-3
IMAGE_WEIGHT = 0.25
MEAN_DECAY = 0.995
VALIDATION_SPLICES, VALIDATION_SEED = 480, 2

Example = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Coefficients (64, h, w) int16, table (64,), luma (S, S) uint8, share of the foreign layer per cell."""


def makers(data: Path, pairs: Path, rng: np.random.Generator) -> tuple[SpliceMaker, SpliceMaker]:
    """Makers of splices of the training and of the validating photographs."""
    tables: list[npt.NDArray[np.int64]] = []
    more: tuple[list[npt.NDArray[np.uint8]], list[npt.NDArray[np.uint8]]] = ([], [])
    for photograph in permitted_photographs(data):
        jpeg = read_jpeg(photograph.path.read_bytes())
        if jpeg is not None:
            tables.append(jpeg.tables[0])
        more[photograph.validates].extend(base_tiles(photograph.rgb(), TILES_PER_PHOTOGRAPH, rng))
    with np.load(pairs / "tiles.npz", allow_pickle=False) as stored:
        validates, authentic, repainted = (stored[name] for name in ("validates", "authentic", "vae"))
    return tuple(  # type: ignore[return-value]
        SpliceMaker(np.concatenate([authentic[part], np.stack(tiles)]), repainted[part], tables)
        for part, tiles in ((~validates, more[0]), (validates, more[1]))
    )


def example(splice: Splice) -> Example:
    """What the network and its loss take of a splice."""
    cells = functional.avg_pool2d(torch.from_numpy(splice.mask)[None], CELL_PX)[0]
    return torch.from_numpy(splice.coefficients), torch.from_numpy(splice.table), torch.from_numpy(splice.luma), cells


def turned(one: Example, rng: np.random.Generator) -> Example:
    """Mirrored and transposed at random: exact symmetries of the 8 x 8 DCT, whose signs the network does not see."""
    coefficients, table, luma, cells = one
    if rng.random() < 0.5:
        coefficients, luma, cells = coefficients.flip(2), luma.flip(1), cells.flip(1)
    if rng.random() < 0.5:
        coefficients, luma, cells = coefficients.flip(1), luma.flip(0), cells.flip(0)
    if rng.random() < 0.5:
        order = torch.arange(64).view(8, 8).T.flatten()
        coefficients, table = coefficients[order].transpose(1, 2), table[order]
        luma, cells = luma.T, cells.T
    return coefficients, table, luma, cells


def batches(maker: SpliceMaker, seed: int) -> Iterator[Example]:
    """Endless batches of new and of replayed splices."""
    rng = np.random.default_rng(seed)
    kept: list[Example] = []
    while True:
        chosen = []
        for _ in range(PER_BATCH):
            if len(kept) < REPLAY // 10 or rng.random() >= REPLAYED_SHARE:
                chosen.append(example(maker.draw(rng)))
                if len(kept) < REPLAY:
                    kept.append(chosen[-1])
                else:
                    kept[int(rng.integers(REPLAY))] = chosen[-1]
            else:
                chosen.append(turned(kept[int(rng.integers(len(kept)))], rng))
        yield stacked(chosen)


def stacked(examples: Sequence[Example]) -> Example:
    """A batch."""
    return tuple(torch.stack(part) for part in zip(*examples, strict=True))  # type: ignore[return-value]


def answers(network: HistoryNetwork, batch: Example) -> tuple[torch.Tensor, torch.Tensor]:
    """The network's map and score."""
    coefficients, tables, luma, _ = batch
    cells, picture = network(coefficients.float(), tables, seams(padded(luma.float())))
    return cells.float(), picture.float()


def loss_of(cells: torch.Tensor, pictures: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """Cross entropy of cells, those on an edge counting little, and of pictures."""
    target = (shares > 0.5).float()
    edge = (shares > 0.03) & (shares < 0.7)
    weight = torch.where(edge, 0.15, 1.0 + target)
    each = functional.binary_cross_entropy_with_logits(cells, target, reduction="none")
    spliced = (target.flatten(1).sum(dim=1) > 0).float()
    whole = functional.binary_cross_entropy_with_logits(pictures, spliced)
    return (each * weight).sum() / weight.sum() + IMAGE_WEIGHT * whole


@torch.inference_mode()
def validate(network: HistoryNetwork, held: Sequence[Example]) -> dict[str, float]:
    """AUC of pictures, mean AUC of cells within spliced pictures, loss."""
    parts = [(*answers(network, batch), batch[3]) for batch in held]
    cells, pictures, shares = (torch.cat(part) for part in zip(*parts, strict=True))
    spliced = (shares > 0.5).flatten(1).any(dim=1)
    aucs = []
    for logits, share in zip(cells[spliced], shares[spliced], strict=True):
        inside, outside = logits[share > 0.7], logits[share < 0.03]
        if len(inside) and len(outside):
            aucs.append(float((inside[:, None] > outside[None]).float().mean()))
    order = (pictures[spliced][:, None] > pictures[~spliced][None]).float().mean()
    loss = float(loss_of(cells, pictures, shares))
    return {"pictures": round(float(order), 4), "cells": round(float(np.mean(aucs)), 4), "loss": round(loss, 4)}


def train(data: Path, pairs: Path, out: Path, *, steps: int, seed: int) -> None:
    """Trains and writes the running mean of the weights."""
    torch.manual_seed(seed)
    maker, held_maker = makers(data, pairs, np.random.default_rng(seed))
    rng = np.random.default_rng(VALIDATION_SEED)
    held = [
        stacked([example(held_maker.draw(rng)) for _ in range(PER_BATCH)])
        for _ in range(VALIDATION_SPLICES // PER_BATCH)
    ]
    network, mean = HistoryNetwork().train(), HistoryNetwork().eval()
    mean.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), PEAK_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=steps, pct_start=0.1)
    start, total = time.perf_counter(), 0.0
    for step, batch in zip(range(1, steps + 1), batches(maker, seed), strict=False):
        loss = loss_of(*answers(network, batch), batch[3])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        _follow(mean, network, min(MEAN_DECAY, step / (step + 20)))
        total += float(loss.detach())
        if step % 250 == 0 or step == steps:
            figures = json.dumps(validate(mean, held))
            seconds = time.perf_counter() - start
            _log.info("step %d, %.0f s, loss %.4f, validation %s", step, seconds, total / 250, figures)
            total = 0.0
            save_file(mean.state_dict(), out)


@torch.no_grad()
def _follow(mean: HistoryNetwork, network: HistoryNetwork, decay: float) -> None:
    kept = mean.state_dict()
    for name, value in network.state_dict().items():
        kept[name].copy_(value if not value.is_floating_point() else torch.lerp(kept[name], value, 1 - decay))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.fingerprint", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with camera/ and photos/")
    parser.add_argument("--pairs", type=Path, default=Path("build/training"), help="folder of training.pairs' tiles")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=5200, help=f"batches of {PER_BATCH} splices")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    train(options.data, options.pairs, options.out, steps=options.steps, seed=options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
