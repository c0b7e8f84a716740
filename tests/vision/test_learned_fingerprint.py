"""spatial.fingerprint: its weights, its input, its map, when it is silent; the splices on which it was trained."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from benchmarks.camera import photo, to_jpeg
from training import fingerprint as training
from training.splices import SIDE_PX, SpliceMaker
from vision_service.decode import decode
from vision_service.domain import Outcome
from vision_service.jpeg import standard_table
from vision_service.labelled import pixel_figures
from vision_service.laundering import decode_rgb
from vision_service.learned.history_network import HistoryNetwork, padded, seams
from vision_service.limits import DecodeLimits
from vision_service.substrate import Substrate
from vision_service.tools.spatial.fingerprint import fingerprint, history


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def substrate_of(data: bytes) -> Substrate:
    return decode(data, DecodeLimits())


def png(rgb: np.ndarray) -> bytes:
    return cv2.imencode(".png", rgb[..., ::-1])[1].tobytes()


def spliced(seed: int) -> tuple[bytes, np.ndarray]:
    """A picture saved at quality 60, a square of another that was never saved, all saved at quality 93."""
    ground = decode_rgb(to_jpeg(photo(512, 512, seed=seed), 60)).copy()
    mask = np.zeros((512, 512), bool)
    mask[160:352, 128:320] = True
    ground[mask] = photo(512, 512, seed=seed + 100)[mask]
    return to_jpeg(ground, 93), mask


def test_the_weights_are_those_of_the_card_and_others_are_refused(tmp_path: Path) -> None:
    digest = hashlib.sha256(fingerprint.WEIGHTS.read_bytes()).hexdigest()
    card = fingerprint.WEIGHTS.with_name("MODEL_CARD.md").read_text(encoding="utf-8")
    assert re.findall(r"[0-9a-f]{64}", card) == [digest] == [fingerprint.SHA256]
    assert fingerprint.WEIGHTS.stat().st_size < 1_000_000
    other = tmp_path / "weights.safetensors"
    other.write_bytes(fingerprint.WEIGHTS.read_bytes()[:-1] + b"\x00\x01")
    with pytest.raises(ValueError, match="another file"):
        fingerprint.load_weights(other, fingerprint.SHA256)


def test_a_splice_scores_above_its_ground_and_is_localised() -> None:
    aucs, higher = [], 0
    for seed in range(4):
        data, mask = spliced(seed)
        observation = fingerprint.run(substrate_of(data))
        genuine = fingerprint.run(substrate_of(to_jpeg(decode_rgb(to_jpeg(photo(512, 512, seed=seed), 60)), 93)))
        assert observation.heat_map is not None
        aucs.append(pixel_figures(observation.heat_map, mask).auc)
        higher += observation.score > genuine.score
        assert not observation.detected
    assert np.mean(aucs) > 0.8
    assert higher >= 3


def test_the_answer_does_not_vary() -> None:
    data, _ = spliced(9)
    first, second = (fingerprint.run(substrate_of(data)) for _ in range(2))
    assert first.score == second.score
    assert first.heat_map is not None
    assert second.heat_map is not None
    assert np.array_equal(first.heat_map.values, second.heat_map.values)


@pytest.mark.parametrize(("height", "width"), [(130, 517), (389, 128)])
def test_the_map_covers_the_picture(height: int, width: int) -> None:
    observation = fingerprint.run(substrate_of(to_jpeg(photo(height, width, seed=2), 85)))
    assert observation.heat_map is not None
    assert observation.heat_map.values.shape == (-(-height // 16), -(-width // 16))
    assert not observation.heat_map.significant


def test_pixels_without_a_file_give_the_coefficients_of_the_dct() -> None:
    rgb = photo(160, 176, seed=4)
    substrate = substrate_of(png(rgb))
    read = history.read_history(substrate)
    block = substrate.luma[32:40, 48:56].numpy() - 128
    expected = np.rint(cv2.dct(block.astype(np.float32)))
    made = read.coefficients[0, :, 4, 6].view(8, 8).numpy()
    assert np.abs(made - expected).max() <= 1
    assert torch.equal(read.phases, seams(padded(substrate.luma[None])))


def test_of_a_large_picture_every_second_cell_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    substrate = substrate_of(to_jpeg(photo(320, 320, seed=5), 80))
    whole = history.read_history(substrate)
    monkeypatch.setattr(history, "MAX_CELLS", 100)
    part = history.read_history(substrate)
    assert (whole.step, part.step) == (1, 2)
    for name in ("coefficients", "phases"):
        cells = getattr(whole, name).view(1, -1, 20, 2, 20, 2)[:, :, ::2, :, ::2]
        assert torch.equal(getattr(part, name), cells.reshape(1, -1, 20, 20))
    heat_map = fingerprint.run(substrate).heat_map
    assert heat_map is not None
    assert heat_map.values.shape == (20, 20)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((300, 300, 3), np.uint8),
        np.full((300, 300, 3), 255, np.uint8),
        np.full((1, 1, 3), 90, np.uint8),
        np.full((1, 8000, 3), 90, np.uint8),
    ],
    ids=["black", "white", "one pixel", "one row"],
)
def test_nothing_to_read_is_not_applicable(rgb: np.ndarray) -> None:
    assert fingerprint.run(substrate_of(png(rgb))).outcome is Outcome.NOT_APPLICABLE


def test_noise_alone_gives_finite_numbers() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (200, 300, 3)).astype(np.uint8)
    for data in (png(rgb), to_jpeg(rgb, 100), to_jpeg(rgb, 5)):
        observation = fingerprint.run(substrate_of(data))
        assert observation.outcome is Outcome.TESTED
        assert np.isfinite([observation.score, *(m.value for m in observation.measurements)]).all()


def test_splices_have_exact_masks_and_symmetric_examples() -> None:
    tiles = np.stack([photo(448, 448, seed=seed) for seed in range(3)])
    maker = SpliceMaker(tiles, tiles[:1], [standard_table(90)])
    rng = np.random.default_rng(1)
    drawn = [maker.draw(rng) for _ in range(12)]
    assert {bool(splice.mask.max() > 0.5) for splice in drawn} == {True, False}
    for splice in drawn:
        assert splice.coefficients.shape == (64, SIDE_PX // 8, SIDE_PX // 8)
        assert splice.luma.shape == splice.mask.shape == (SIDE_PX, SIDE_PX)
    example = training.example(drawn[0])
    shapes = [part.shape for part in example]
    assert [part.shape for part in training.turned(example, rng)] == shapes


def test_training_lowers_the_loss() -> None:
    torch.manual_seed(0)
    tiles = np.stack([photo(448, 448, seed=seed) for seed in range(2)])
    maker, rng = SpliceMaker(tiles, tiles[:1], [standard_table(90)]), np.random.default_rng(3)
    batch = training.stacked([training.example(maker.draw(rng)) for _ in range(4)])
    network = HistoryNetwork().train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    losses = []
    for _ in range(12):
        loss = training.loss_of(*training.answers(network, batch), batch[3])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
