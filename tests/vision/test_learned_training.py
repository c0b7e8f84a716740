"""The scripts that make weights: pairs are aligned, histories are shared, the network can learn a planted trace."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks.camera import photo
from training import ai_cue, base_tiles, pairs
from training.histories import draw_history
from training.photographs import permitted_photographs
from training.spectrum import with_spectrum_of
from training.tiny_vae import TinyVae
from training.upsampling_autoencoders import UPSAMPLERS, UpsamplingAutoencoder, fit
from vision_service.learned.crops import textured_crops
from vision_service.learned.residual_network import RESIDUALS, ResidualFrontEnd, ResidualNetwork


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small convolutions lose more by waiting for each other than they gain
    yield
    torch.set_num_threads(before)


def test_only_permitted_photographs_train_and_each_is_on_one_side(tmp_path: Path) -> None:
    for folder, rows in (
        ("camera", [{"file": f"{i}.jpg"} for i in range(40)]),
        (
            "photos",
            [
                {"file": "a.jpg", "label": "authentic", "source": "metadata-extractor-images"},
                {"file": "b.jpg", "label": "authentic", "source": "imagenet"},
                {"file": "c.jpg", "label": "ai_generated", "source": "metadata-extractor-images"},
            ],
        ),
    ):
        (tmp_path / folder).mkdir()
        with (tmp_path / folder / "manifest.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    photographs = permitted_photographs(tmp_path)
    assert {p.name for p in photographs} == {f"{i}.jpg" for i in range(40)} | {"a.jpg"}
    assert 2 <= sum(p.validates for p in photographs) <= 16
    assert photographs == permitted_photographs(tmp_path)


def test_base_tiles_are_drawn_by_the_seed_alone() -> None:
    rgb = photo(500, 620, seed=1)
    first, again = (base_tiles.base_tiles(rgb, 3, np.random.default_rng(4)) for _ in range(2))
    assert all(tile.shape == (base_tiles.TILE_PX, base_tiles.TILE_PX, 3) for tile in first)
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert base_tiles.base_tiles(rgb[:300], 3, np.random.default_rng(4)) == []


@pytest.mark.parametrize("seed", range(12))
def test_a_history_does_the_same_to_both_sides(seed: int) -> None:
    picture = photo(160, 160, seed=seed)
    scale, steps = draw_history(np.random.default_rng(seed))
    one, other = picture.copy(), picture.copy()
    for step in steps:
        one = step(one)
        other = step(other)
    assert (one == other).all()
    assert one.dtype == np.uint8
    assert abs(one.shape[0] - 160 * scale) <= 1


def test_a_matched_reconstruction_has_the_spectrum_of_its_original() -> None:
    original = photo(256, 256, seed=2)
    soft = np.asarray(cv2.GaussianBlur(original, (0, 0), 0.5), np.uint8)
    matched = with_spectrum_of(soft, original)

    def fine_energy(picture: np.ndarray) -> float:
        return float(np.square(np.asarray(cv2.Laplacian(picture, cv2.CV_32F))).mean())

    assert fine_energy(soft) < 0.6 * fine_energy(original)
    assert fine_energy(matched) == pytest.approx(fine_energy(original), rel=0.2)
    assert np.abs(matched.astype(int) - original).mean() < 8


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
def test_upsampling_autoencoders_keep_the_shape(upsampler: str) -> None:
    out = UpsamplingAutoencoder(upsampler, 8)(torch.rand(2, 3, 32, 40))
    assert out.shape == (2, 3, 32, 40)


def test_an_autoencoder_learns_to_reconstruct() -> None:
    tiles = np.stack([photo(64, 64, seed=s) for s in range(4)])
    wanted = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 255

    def error(model: UpsamplingAutoencoder) -> float:
        with torch.inference_mode():
            return float((model(wanted) - wanted).square().mean())

    assert error(fit("nearest", 12, tiles, 30, seed=0)) < 0.5 * error(fit("nearest", 12, tiles, 1, seed=0))


def test_the_tiny_vae_restores_a_photograph(shared_data: Path) -> None:
    tile = torch.from_numpy(photo(96, 96, seed=3)).permute(2, 0, 1)[None].float() / 255
    vae = TinyVae(shared_data / "vae")
    latent = vae.encode(tile)
    assert latent.shape == (1, 32, 12, 12)
    error = float((vae.decode(latent) - tile).square().mean())
    assert -10 * np.log10(error) > 24


def test_crops_avoid_the_flat_and_the_clipped() -> None:
    rgb = np.full((256, 512, 3), 200, np.uint8)
    rgb[:128, 256:384] = photo(128, 128, seed=5)
    rgb[128:, :128] = np.random.default_rng(0).choice([0, 255], (128, 128, 3))
    assert textured_crops(rgb, 128, 16) == [(0, 256)]
    assert textured_crops(rgb[:100], 128, 16) == []


def test_crops_are_bounded_and_do_not_overlap() -> None:
    rgb = np.random.default_rng(0).integers(3, 250, (1030, 1300, 3)).astype(np.uint8)
    places = textured_crops(rgb, 128, 16)
    assert len(places) == 16 == len(set(places))
    for i, (top, left) in enumerate(places):
        assert top + 128 <= 1030
        assert left + 128 <= 1300
        assert all(abs(top - t) >= 128 or abs(left - c) >= 128 for t, c in places[:i])


def test_residuals_see_no_brightness_and_no_gradient_of_second_order() -> None:
    front = ResidualFrontEnd()
    assert front(torch.full((1, 3, 16, 16), 0.5)).abs().max() < 1e-4
    ramp = (torch.arange(16) / 64.0).expand(1, 3, 16, 16)
    seen = front(ramp)[0].abs().amax(dim=(1, 2))
    assert seen.shape == (RESIDUALS,)
    assert seen[0] > 0.4  # the first difference
    assert seen[1:].max() < 1e-3


def write_tiles(folder: Path) -> None:
    """Reconstructions that are their originals through a 2 x nearest-neighbour doubling: easy to tell."""
    tiles = np.stack([photo(224, 224, seed=s) for s in range(6)])
    small = tiles[:, ::2, ::2]
    made = np.repeat(np.repeat(small, 2, axis=1), 2, axis=2)
    kinds = dict.fromkeys(ai_cue.MADE_SHARES, made)
    np.savez(folder / "tiles.npz", authentic=tiles, validates=np.arange(6) >= 4, allow_pickle=False, **kinds)


def test_training_learns_a_planted_trace_and_writes_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ai_cue, "draw_history", lambda rng: (1.0, []))
    monkeypatch.setattr(ai_cue, "PAIRS_PER_BATCH", 4)
    monkeypatch.setattr(ai_cue, "VALIDATION_PAIRS", 50)
    monkeypatch.setattr(ai_cue, "MEAN_DECAY", 0.7)
    write_tiles(tmp_path)
    out = tmp_path / "weights.safetensors"
    ai_cue.train(tmp_path, out, ai_cue.Plan(steps=24, last_step=24, peak_rate=3e-3, seed=1, start=None))
    network = ResidualNetwork()
    network.load_state_dict(load_file(out))
    held = ai_cue.Tiles(tmp_path / "tiles.npz", validates=True)
    rng = np.random.default_rng(9)
    figures = ai_cue.validate(network.eval(), [ai_cue.as_batch([held.pair(rng) for _ in range(20)])])
    assert figures["auc"] > 0.9
    assert figures["pairs_in_order"] > 0.9


def test_pairs_are_written_with_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    names = [f"{i}.png" for i in range(8)]
    for folder in ("camera", "photos"):
        (data / folder).mkdir(parents=True)
    (data / "camera" / "manifest.csv").write_text("\n".join(["file", *names]))
    (data / "photos" / "manifest.csv").write_text("file,label,source")
    for i, name in enumerate(names):
        Image.fromarray(photo(72, 80, seed=i)).save(data / "camera" / name)

    class Identity:
        def __init__(self, folder: Path) -> None:
            assert folder == data / "vae"

        def encode(self, picture: torch.Tensor) -> torch.Tensor:
            return picture

        def decode(self, latent: torch.Tensor) -> torch.Tensor:
            return latent.clamp(0, 1)

    monkeypatch.setattr(base_tiles, "TILE_PX", 72)
    monkeypatch.setattr(pairs, "TinyVae", Identity)
    monkeypatch.setattr(pairs, "AUTOENCODER_STEPS", 2)
    monkeypatch.setattr(pairs, "TILES_PER_PHOTOGRAPH", 1)
    pairs.make_pairs(data, out)
    with np.load(out / "tiles.npz", allow_pickle=False) as stored:
        assert set(stored) == {"authentic", "vae", "vae_matched", "other", "other_matched", "validates"}
        assert stored["vae"].shape == (8, 72, 72, 3)
        assert stored["validates"].dtype == bool
