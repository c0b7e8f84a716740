"""Trains the network of the AI cue on aligned pairs: `python -m training.ai_cue --pairs DIR --out FILE`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.utils.data import IterableDataset

from training.histories import draw_history
from vision_service.learned.residual_network import ResidualNetwork

ByteArray = npt.NDArray[np.uint8]
Pair = tuple[ByteArray, ByteArray]

_log = logging.getLogger(__name__)

CROP_PX = 96
PAIRS_PER_BATCH = 24
MADE_SHARES = {"vae": 0.4, "vae_matched": 0.25, "other": 0.2, "other_matched": 0.15}
"""How often each kind of reconstruction is the other side of a pair."""
RANKING_WEIGHT = 0.5
"""Weight of the loss that asks the reconstruction to score above its own original."""

VALIDATION_PAIRS, VALIDATION_SEED = 600, 2

MEAN_DECAY = 0.99
"""Of the running mean of weights, per step."""


@dataclass(frozen=True)
class Plan:
    """How a run goes."""

    steps: int
    """Batches over which the rate rises and falls."""
    last_step: int
    """Batches after which the run ends."""
    peak_rate: float
    seed: int
    start: Path | None
    """Weights to begin with; random ones when None."""


class Tiles:
    """Tiles of one part of `tiles.npz`, all of shape (n, S, S, 3)."""

    def __init__(self, file: Path, *, validates: bool) -> None:
        with np.load(file, allow_pickle=False) as stored:
            keep = stored["validates"] == validates
            self.authentic: ByteArray = stored["authentic"][keep]
            self.made = {name: stored[name][keep] for name in MADE_SHARES}

    def pair(self, rng: np.random.Generator) -> Pair:
        """A crop of a tile and of its reconstruction after one and the same history, (CROP_PX, CROP_PX, 3) each."""
        i = int(rng.integers(len(self.authentic)))
        made = self.made[str(rng.choice(list(MADE_SHARES), p=list(MADE_SHARES.values())))]
        scale, steps = draw_history(rng)
        side = min(self.authentic.shape[1], int(np.ceil((CROP_PX + 16) / scale)))
        top, left = rng.integers(0, self.authentic.shape[1] - side + 1, 2)
        real = self.authentic[i, top : top + side, left : left + side]
        fake = made[i, top : top + side, left : left + side]
        for step in steps:
            real, fake = step(real), step(fake)
        y, x = (int(rng.integers(0, length - CROP_PX + 1)) for length in real.shape[:2])
        window = np.s_[y : y + CROP_PX, x : x + CROP_PX]
        if rng.random() < 0.5:
            return real[window].transpose(1, 0, 2), fake[window].transpose(1, 0, 2)
        return real[window], fake[window]


class Batches(IterableDataset[torch.Tensor]):
    """Endless batches, uint8 (2 P, 3, CROP_PX, CROP_PX): P originals, then their reconstructions."""

    def __init__(self, tiles: Tiles, seed: int) -> None:
        self._tiles, self._seed = tiles, seed

    def __iter__(self) -> Iterator[torch.Tensor]:
        """Batches of the seed."""
        rng = np.random.default_rng(self._seed)
        while True:
            yield as_batch([self._tiles.pair(rng) for _ in range(PAIRS_PER_BATCH)])


def as_batch(pairs: Sequence[Pair]) -> torch.Tensor:
    """Originals, then reconstructions, uint8 (2 P, 3, H, W)."""
    stacked = np.stack([real for real, _ in pairs] + [fake for _, fake in pairs])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    """Cross entropy of both sides and the ranking of each pair; logits as `as_batch` orders them."""
    real, fake = logits.chunk(2)
    single = functional.softplus(real).mean() + functional.softplus(-fake).mean()
    return single / 2 + RANKING_WEIGHT * functional.softplus(real - fake).mean()


@torch.inference_mode()
def validate(network: ResidualNetwork, batches: Sequence[torch.Tensor]) -> dict[str, float]:
    """Single-crop AUC and the share of pairs in the right order."""
    logits = [network(batch.float() / 255).chunk(2) for batch in batches]
    real, fake = (torch.cat(side).numpy() for side in zip(*logits, strict=True))
    return {
        "auc": float((fake[:, None] > real[None]).mean()),
        "pairs_in_order": float((fake > real).mean()),
        "loss": float(np.logaddexp(0, real).mean() + np.logaddexp(0, -fake).mean()) / 2,
    }


@torch.no_grad()
def _follow(mean: ResidualNetwork, network: ResidualNetwork) -> None:
    """Moves the running mean a hundredth of the way to the network, its normalisation statistics too."""
    for name, value in network.state_dict().items():
        kept = mean.state_dict()[name]
        kept.copy_(value if not value.is_floating_point() else torch.lerp(kept, value, 1 - MEAN_DECAY))


def train(pairs: Path, out: Path, plan: Plan) -> None:
    """Trains and writes weights: those of the running mean that did best on the validating photographs."""
    torch.manual_seed(plan.seed)
    network = ResidualNetwork().train()
    if plan.start:
        network.load_state_dict(load_file(plan.start))
    mean = ResidualNetwork().eval()
    mean.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), plan.peak_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.peak_rate, total_steps=plan.steps, pct_start=0.15)
    held = Tiles(pairs / "tiles.npz", validates=True)
    rng = np.random.default_rng(VALIDATION_SEED)
    held_batches = [as_batch([held.pair(rng) for _ in range(50)]) for _ in range(VALIDATION_PAIRS // 50)]
    batches = iter(Batches(Tiles(pairs / "tiles.npz", validates=False), plan.seed))
    start, best, total = time.perf_counter(), 0.0, 0.0
    for step in range(1, plan.last_step + 1):
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            logits = network(batch.float() / 255)
        loss = loss_of(logits.float())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        _follow(mean, network)
        total += float(loss.detach())
        if step % 200 == 0 or step == plan.last_step:
            figures = validate(mean, held_batches)
            seconds = time.perf_counter() - start
            _log.info("step %d, %.0f s, loss %.4f, validation %s", step, seconds, total / 200, json.dumps(figures))
            total = 0.0
            if figures["auc"] > best:
                best = figures["auc"]
                save_file(mean.state_dict(), out)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.ai_cue", description=__doc__)
    parser.add_argument("--pairs", type=Path, default=Path("build/training"), help="folder that holds tiles.npz")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--steps", type=int, default=5500, help="batches of 24 pairs")
    parser.add_argument("--last-step", type=int, help="batches after which to end (default: --steps)")
    parser.add_argument("--peak-rate", type=float, default=3e-3, help="highest rate of learning")
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    last_step = options.last_step or options.steps
    plan = Plan(options.steps, last_step, options.peak_rate, options.seed, options.start)
    train(options.pairs, options.out, plan)
    return 0


if __name__ == "__main__":
    sys.exit(main())
