"""Makes aligned pairs, authentic tiles and reconstructions by decoders: `python -m training.pairs --data DIR`.

Both sides of a pair have the same content, size and format; nothing but synthesis tells them apart
(Rajan et al., "Aligned Datasets Improve Detection of Latent Diffusion-Generated Images", ICLR 2025).
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from training.base_tiles import TILE_PX, base_tiles
from training.photographs import Photograph, permitted_photographs
from training.spectrum import with_spectrum_of
from training.tiny_vae import TinyVae
from training.upsampling_autoencoders import UPSAMPLERS, UpsamplingAutoencoder, fit

ByteArray = npt.NDArray[np.uint8]

_log = logging.getLogger(__name__)

TILES_PER_PHOTOGRAPH = 5
AUTOENCODER_CODES = {"nearest": 12, "bilinear": 10, "transposed": 12, "shuffled": 8}
AUTOENCODER_STEPS = 700

_LATENT_NOISE = (0.0, 0.0, 0.06, 0.12, 0.25)
"""Deviations of Gaussian noise on the latent, whose own deviation is 0.85: what sampling leaves beside decoding."""


def make_pairs(data: Path, out: Path, seed: int = 1) -> None:
    """Writes `tiles.npz`: uint8 arrays of shape (n, S, S, 3) and validates (n,) bool.

    "authentic"; "vae" and "other", its reconstructions; "vae_matched" and "other_matched", the same with the radial
    power spectrum of the authentic tile.

    Args:
        data: folder as `permitted_photographs` takes it, with `vae/`.
        out: folder to write to.
        seed: fixes all random choices.
    """
    rng = np.random.default_rng(seed)
    tiles, validates = _authentic(permitted_photographs(data), rng)
    _log.info("%d tiles of %d px, %d of them for validation", len(tiles), TILE_PX, int(validates.sum()))
    vae = _by_vae(TinyVae(data / "vae"), tiles, rng)
    other = _by_autoencoders(tiles, tiles[~validates], rng)
    out.mkdir(parents=True, exist_ok=True)
    matched = {f"{name}_matched": _matched(made, tiles) for name, made in (("vae", vae), ("other", other))}
    arrays = {"authentic": tiles, "vae": vae, "other": other, **matched}
    np.savez(out / "tiles.npz", allow_pickle=False, validates=validates, **arrays)


def _authentic(photographs: Sequence[Photograph], rng: np.random.Generator) -> tuple[ByteArray, npt.NDArray[np.bool_]]:
    tiles, validates = [], []
    for photograph in photographs:
        made = base_tiles(photograph.rgb(), TILES_PER_PHOTOGRAPH, rng)
        tiles += made
        validates += [photograph.validates] * len(made)
    return np.stack(tiles), np.array(validates)


def _by_vae(vae: TinyVae, tiles: ByteArray, rng: np.random.Generator) -> ByteArray:
    start, made = time.perf_counter(), np.empty_like(tiles)
    for i, tile in enumerate(tiles):
        latent = vae.encode(_tensor(tile))
        noise = torch.from_numpy(rng.normal(0, 1, latent.shape).astype(np.float32))
        made[i] = _bytes(vae.decode(latent + float(rng.choice(_LATENT_NOISE)) * noise))
    _log.info("autoencoder of a diffusion model: %s, %.0f s", _psnr(tiles, made), time.perf_counter() - start)
    return made


def _by_autoencoders(tiles: ByteArray, training: ByteArray, rng: np.random.Generator) -> ByteArray:
    models = []
    for number, name in enumerate(UPSAMPLERS):
        start = time.perf_counter()
        models.append(fit(name, AUTOENCODER_CODES[name], training, AUTOENCODER_STEPS, seed=number))
        made = np.stack([_by(models[-1], tile) for tile in training[:20]])
        _log.info("autoencoder %s: %s, %.0f s", name, _psnr(training[:20], made), time.perf_counter() - start)
    return np.stack([_by(models[int(rng.integers(len(models)))], tile) for tile in tiles])


def _matched(made: ByteArray, tiles: ByteArray) -> ByteArray:
    return np.stack([with_spectrum_of(one, tile) for one, tile in zip(made, tiles, strict=True)])


@torch.inference_mode()
def _by(model: UpsamplingAutoencoder, tile: ByteArray) -> ByteArray:
    return _bytes(model(_tensor(tile)))


def _tensor(tile: ByteArray) -> torch.Tensor:
    return torch.from_numpy(tile).permute(2, 0, 1)[None].float() / 255


def _bytes(picture: torch.Tensor) -> ByteArray:
    return np.asarray(picture[0].clamp(0, 1).mul(255).round().permute(1, 2, 0).to(torch.uint8).contiguous().numpy())


def _psnr(a: ByteArray, b: ByteArray) -> str:
    errors = [np.mean((x.astype(np.float32) - y.astype(np.float32)) ** 2) for x, y in zip(a, b, strict=True)]
    return f"PSNR median {np.median(10 * np.log10(255**2 / np.maximum(errors, 1e-9))):.1f} dB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns an exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.pairs", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with camera/, photos/ and vae/")
    parser.add_argument("--out", type=Path, default=Path("build/training"), help="folder for tiles.npz")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    make_pairs(options.data, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
