"""RivaGAN: the decoder against plain convolutions, its null on photos, marks found after recompression."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks.camera import Sensor, photo, to_jpeg, to_png
from vision_service.substrate import Substrate
from vision_service.tools.watermark import rivagan
from vision_service.tools.watermark.dwt_marks import match_payload
from vision_service.tools.watermark.onnx_weights import read_float_tensors
from vision_service.tools.watermark.payloads import Payload, from_bits, from_bytes

ToSubstrate = Callable[[bytes], Substrate]
CPU = torch.device("cpu")
QUIET = Sensor(shot=4e-5, read=5e-4)


def made_up_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Weights of the right shapes, drawn at random."""
    rng = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {}
    for branch in ("_conv", "_attention"):
        shapes |= {f"{branch}.0.weight": (32, 3, 1, 11, 11), f"{branch}.3.weight": (32, 32, 1, 11, 11)}
        shapes |= {f"{branch}.{layer}.bias": (32,) for layer in (0, 2, 3)} | {f"{branch}.2.weight": (32,)}
        shapes |= {f"{branch}.2.running_mean": (32,)}
    shapes |= {f"_attention.5.{part}": (32,) for part in ("weight", "bias", "running_mean")}
    tensors = {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
    for name in ("_conv.2", "_attention.2", "_attention.5"):
        tensors[f"{name}.running_var"] = rng.uniform(0.5, 2, 32).astype(np.float32)
    return tensors


def slow_means(tensors: dict[str, np.ndarray], tile: torch.Tensor) -> torch.Tensor:
    """The decoder as published, by plain convolutions without padding."""
    t = {name: torch.from_numpy(value) for name, value in tensors.items()}

    def norm(values: torch.Tensor, name: str) -> torch.Tensor:
        mean, variance = t[f"{name}.running_mean"], t[f"{name}.running_var"]
        return functional.batch_norm(values, mean, variance, t[f"{name}.weight"], t[f"{name}.bias"])

    def branch(name: str) -> torch.Tensor:
        first = functional.conv2d(tile[None], t[f"{name}.0.weight"][:, :, 0], t[f"{name}.0.bias"])
        hidden = norm(torch.tanh(first), f"{name}.2")
        return functional.conv2d(hidden, t[f"{name}.3.weight"][:, :, 0], t[f"{name}.3.bias"])

    attention = torch.softmax(norm(torch.tanh(branch("_attention")), "_attention.5"), dim=1)
    return (branch("_conv") * attention).mean(dim=(0, 2, 3))


@pytest.fixture(scope="module")
def installed() -> rivagan.Decoder:
    """The published decoder, where its wheel is installed."""
    try:
        return rivagan.load_decoder(CPU)
    except rivagan.DecoderMissingError as error:
        pytest.skip(str(error))


def test_the_fourier_form_equals_plain_convolutions() -> None:
    tensors = made_up_tensors()
    tiles = torch.rand((2, 3, rivagan.TILE_PX, rivagan.TILE_PX), generator=torch.Generator().manual_seed(1)) * 2 - 1
    means = rivagan.build_decoder(tensors, CPU).means(tiles)
    for tile, mean in zip(tiles, means, strict=True):
        torch.testing.assert_close(mean, slow_means(tensors, tile), rtol=1e-3, atol=1e-3)


def test_a_decoder_that_lacks_a_tensor_is_refused() -> None:
    tensors = made_up_tensors()
    del tensors["_conv.3.bias"]
    with pytest.raises(rivagan.DecoderMissingError, match="_conv"):
        rivagan.build_decoder(tensors, CPU)


def test_weights_are_read_as_onnx_stores_them() -> None:
    raw = np.arange(6, dtype="<f4").tobytes()
    tensor = b"\x08\x02\x08\x03\x10\x01\x42\x01w\x4a\x18" + raw  # dims 2, 3; float; name "w"; raw data
    packed = b"\x0a\x02\x02\x03\x10\x01\x42\x01p\x4a\x18" + raw
    integers = b"\x08\x01\x10\x07\x42\x01i\x4a\x08" + bytes(8)
    graph = b"".join(b"\x2a" + bytes([len(t)]) + t for t in (tensor, packed, integers))
    found = read_float_tensors(b"\x08\x06" + b"\x3a" + bytes([len(graph)]) + graph)
    assert sorted(found) == ["p", "w"]
    np.testing.assert_array_equal(found["w"], np.arange(6, dtype=np.float32).reshape(2, 3))


@pytest.mark.parametrize("data", [b"", b"GIF89a" * 10, b"\x3a\xff\x01abc", b"\x80"])
def test_bytes_that_are_no_model_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"not an ONNX model|cut short"):
        read_float_tensors(data)


@pytest.mark.parametrize("launder", [to_png, lambda rgb: to_jpeg(rgb, 85)], ids=["lossless", "JPEG 85"])
def test_a_mark_is_found_and_named(
    launder: Callable[[np.ndarray], bytes], installed: rivagan.Decoder, to_substrate: ToSubstrate
) -> None:
    from benchmarks.rivagan import embed_rivagan

    payload = from_bytes("us", b"\xb4\x0f\x91\x6e")
    seen = rivagan.make_test((payload,)).run(to_substrate(launder(embed_rivagan(photo(320, 320, 3, QUIET), payload))))
    assert seen.detected
    assert seen.details["payload_of"] == "us"
    assert seen.explanation_key == "watermark.rivagan.owner_mark"


def test_p_values_of_payloads_that_are_not_there_are_uniform(installed: rivagan.Decoder) -> None:
    rng = np.random.default_rng(5)
    letters = np.frombuffer(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", dtype=np.uint8)
    texts = [from_bytes("", bytes(rng.choice(letters, 4))) for _ in range(200)]
    random = [from_bits("", "".join(map(str, rng.integers(0, 2, 32)))) for _ in range(200)]
    log10_p = []
    for seed in range(4):
        bits = rivagan.soft_bits(photo(256, 256, seed), installed, CPU)
        log10_p += [match_payload(bits[None], payload, period=1).log10_p for payload in texts + random]
    share = {level: float((np.array(log10_p) < np.log10(level)).mean()) for level in (0.1, 0.01)}
    assert 0.05 < share[0.1] < 0.15
    assert share[0.01] < 0.02


def test_pictures_without_a_mark_are_left_alone(installed: rivagan.Decoder, to_substrate: ToSubstrate) -> None:
    rng = np.random.default_rng(3)
    flat = np.full((256, 272, 3), 117, dtype=np.uint8)
    noise = rng.integers(0, 256, (256, 272, 3), dtype=np.uint8)
    for rgb in (photo(256, 256, 1), flat, np.full_like(flat, 255), noise):
        seen = rivagan.TEST.run(to_substrate(to_png(rgb)))
        assert not seen.detected
        assert np.isfinite(seen.score)


def test_without_the_decoder_nothing_is_said(monkeypatch: pytest.MonkeyPatch, to_substrate: ToSubstrate) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    rivagan.load_decoder.cache_clear()
    seen = rivagan.TEST.run(to_substrate(to_png(photo(256, 256, 0))))
    rivagan.load_decoder.cache_clear()
    assert seen.explanation_key == "not_applicable.decoder_missing"
    assert "0.2.0" in seen.reason


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "decoder.onnx").write_bytes(b"other")

    class Other:
        def locate_file(self, _: str) -> Path:
            return tmp_path / "decoder.onnx"

    monkeypatch.setattr(metadata, "distribution", lambda _: Other())
    rivagan.load_decoder.cache_clear()
    with pytest.raises(rivagan.DecoderMissingError, match=r"not that of version 0\.2\.0"):
        rivagan.load_decoder(CPU)
    rivagan.load_decoder.cache_clear()


@pytest.mark.parametrize(("width", "height"), [(1, 1), (255, 256), (8000, 20)])
def test_small_pictures_are_not_judged(width: int, height: int, to_substrate: ToSubstrate) -> None:
    data = to_png(np.zeros((height, width, 3), np.uint8))
    assert rivagan.TEST.run(to_substrate(data)).explanation_key == "not_applicable.too_small"


def test_a_payload_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        rivagan.make_test((Payload("long", np.zeros(48, np.int8)),))
