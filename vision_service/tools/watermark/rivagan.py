"""watermark.rivagan: known 32-bit payloads of RivaGAN, by the published decoder and a correlation that needs no model.

The decoder's weights are not part of this project. They are read, as data alone, from the wheel invisible-watermark
0.2.0 where that is installed; nothing of the wheel is run.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark.dwt_marks import match_payload
from vision_service.tools.watermark.onnx_weights import read_float_tensors
from vision_service.tools.watermark.payloads import RIVAGAN_PAYLOADS, Payload

DISTRIBUTION: Final = "invisible-watermark"
WEIGHTS: Final = "imwatermark/rivagan_decoder.onnx"
WEIGHTS_SHA256: Final = "6b006690cf352fa50a91a0b6d6241dbcded0a9957969e2c0665cf9a7011b3880"
"""Of the decoder in invisible-watermark 0.2.0; other weights would need another check of the null."""
BITS: Final = 32
MIN_PIXELS: Final = 256 * 256
"""The scheme refuses to embed into less."""
MAX_LOG10_NFA: Final = -5.0
"""One false alarm in 100,000 pictures, whatever the number of payloads."""
TILE_PX: Final = 64
"""Side of the tiles, for Fourier transforms; the two layers of 11 x 11 px leave 44 x 44 valid values of each."""
TILES: Final = 36
"""Most tiles that are decoded, spread evenly."""

_ID: Final = "watermark.rivagan"
_KERNEL: Final = 11
_VALID_1: Final = TILE_PX - _KERNEL + 1
_VALID_2: Final = _VALID_1 - _KERNEL + 1
_BATCH: Final = 12
_SURE: Final = 30.0
"""Mean soft bit of a tile beyond which it is no surer: a few strong textures must not outweigh the other tiles."""
_EPSILON: Final = 1e-5
_SCORE_LIMIT: Final = 30.0


class DecoderMissingError(Exception):
    """The weights are not installed, or are not those that the test was checked with."""


@dataclass(frozen=True, eq=False)
class _Norm:
    """Batch normalisation as one multiplication and one addition, each of shape (channels, 1, 1)."""

    scale: torch.Tensor
    shift: torch.Tensor


@dataclass(frozen=True, eq=False)
class Decoder:
    """Two branches of two 11 x 11 layers (values and attention), as spectra of TILE_PX x TILE_PX.

    Zhang, Xu, Cuesta-Infante, Veeramachaneni: Robust Invisible Video Watermarking with Attention, 2019, section 3.
    Layers are products of spectra: 17 times fewer operations than 11 x 11 filters between 32 channels.
    """

    first: torch.Tensor
    """Conjugate spectra of both branches' first filters, (frequencies, 3, 64)."""
    first_bias: torch.Tensor
    second: torch.Tensor
    """Of the second filters, (frequencies, 2, 32, 32) as branch, input, output."""
    second_bias: torch.Tensor
    norm: _Norm
    attention_norm: _Norm

    def means(self, tiles: torch.Tensor) -> torch.Tensor:
        """Mean soft bit over the valid part of each tile, shape (tiles, 32); large positive = 1, negative = 0.

        Args:
            tiles: float32, shape (tiles, 3, TILE_PX, TILE_PX), blue, green, red in -1..1.
        """
        count = tiles.shape[0]
        hidden = torch.tanh(_filtered(tiles[:, None], self.first[:, None])[..., :_VALID_1, :_VALID_1] + self.first_bias)
        hidden = hidden * self.norm.scale + self.norm.shift
        both = _filtered(hidden.reshape(count, 2, BITS, _VALID_1, _VALID_1), self.second)
        both = both.reshape(count, 2, BITS, TILE_PX, TILE_PX)[..., :_VALID_2, :_VALID_2] + self.second_bias
        attention = torch.tanh(both[:, 1]) * self.attention_norm.scale + self.attention_norm.shift
        means: torch.Tensor = (both[:, 0] * torch.softmax(attention, dim=1)).mean(dim=(2, 3))
        return means


def _filtered(planes: torch.Tensor, spectra: torch.Tensor) -> torch.Tensor:
    """Correlates planes (tiles, groups, inputs, h, w) with filters (frequencies, groups, inputs, outputs)."""
    size = (TILE_PX, TILE_PX)
    spectrum = torch.fft.rfft2(planes, s=size).flatten(-2).permute(3, 1, 0, 2)
    product = torch.matmul(spectrum, spectra).permute(2, 1, 3, 0)
    filtered: torch.Tensor = torch.fft.irfft2(product.reshape(*product.shape[:3], TILE_PX, TILE_PX // 2 + 1), s=size)
    return filtered.flatten(1, 2)


def _spectra(filters: torch.Tensor) -> torch.Tensor:
    """Conjugate spectra of filters (..., outputs, inputs, 11, 11), shape (frequencies, ..., inputs, outputs)."""
    spectrum = torch.fft.rfft2(filters, s=(TILE_PX, TILE_PX)).conj().flatten(-2)
    spectra: torch.Tensor = spectrum.movedim(-1, 0).transpose(-1, -2).resolve_conj().contiguous()
    return spectra


def build_decoder(tensors: dict[str, npt.NDArray[np.float32]], device: torch.device) -> Decoder:
    """The decoder from its published tensors (names of the ONNX file).

    Raises:
        DecoderMissingError: a tensor is missing or has another shape.
    """

    def tensor(name: str, *shape: int) -> torch.Tensor:
        found = tensors.get(name)
        if found is None or found.shape != shape:
            raise DecoderMissingError(f"the decoder has no tensor {name} of shape {shape}")
        return torch.from_numpy(found.copy()).to(device)

    def both(name: str, *shape: int) -> torch.Tensor:
        return torch.stack([tensor(f"{branch}.{name}", *shape) for branch in ("_conv", "_attention")])

    def norm(prefix: str) -> _Norm:
        weight, bias, mean, variance = (
            tensor(f"{prefix}.{part}", BITS) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / torch.sqrt(variance + _EPSILON)
        return _Norm(scale[:, None, None], (bias - mean * scale)[:, None, None])

    size = (1, _KERNEL, _KERNEL)
    first = both("0.weight", BITS, 3, *size).squeeze(3).flatten(0, 1)
    second = both("3.weight", BITS, BITS, *size).squeeze(3)
    hidden = [norm("_conv.2"), norm("_attention.2")]
    return Decoder(
        first=_spectra(first),
        first_bias=both("0.bias", BITS).flatten()[:, None, None],
        second=_spectra(second),
        second_bias=both("3.bias", BITS)[:, :, None, None],
        norm=_Norm(torch.cat([n.scale for n in hidden]), torch.cat([n.shift for n in hidden])),
        attention_norm=norm("_attention.5"),
    )


@functools.lru_cache(maxsize=2)
def load_decoder(device: torch.device) -> Decoder:
    """The decoder of the installed wheel.

    Raises:
        DecoderMissingError: the wheel is not installed, or its weights are not the expected ones.
    """
    try:
        data = Path(str(metadata.distribution(DISTRIBUTION).locate_file(WEIGHTS))).read_bytes()
    except (metadata.PackageNotFoundError, OSError) as error:
        raise DecoderMissingError(f"{DISTRIBUTION} 0.2.0, which holds the decoder, is not installed") from error
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise DecoderMissingError(f"the decoder of the installed {DISTRIBUTION} is not that of version 0.2.0")
    return build_decoder(read_float_tensors(data), device)


def tile_corners(height: int, width: int) -> list[tuple[int, int]]:
    """Corners (top, left) of at most `TILES` tiles that do not overlap, spread evenly; the same for the same size."""
    rows, columns = height // TILE_PX, width // TILE_PX
    chosen = np.unique(np.linspace(0, rows * columns - 1, min(TILES, rows * columns)).astype(int))
    return [(int(i) // columns * TILE_PX, int(i) % columns * TILE_PX) for i in chosen]


def soft_bits(rgb: npt.NDArray[np.uint8], decoder: Decoder, device: torch.device) -> npt.NDArray[np.float64]:
    """Soft bits of a picture: the mean over its tiles of their bounded soft bits, shape (32,), -1..1.

    Args:
        rgb: shape (H, W, 3), both sides at least TILE_PX.
        decoder: from `load_decoder`, on `device`.
        device: where to compute.
    """
    corners = tile_corners(*rgb.shape[:2])
    cut = np.stack([rgb[top : top + TILE_PX, left : left + TILE_PX, ::-1] for top, left in corners])
    tiles = torch.from_numpy(cut).to(device).permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1.0
    with torch.inference_mode():
        means = torch.cat([decoder.means(tiles[i : i + _BATCH]) for i in range(0, len(tiles), _BATCH)])
        return np.asarray(torch.tanh(means / _SURE).mean(dim=0).cpu().numpy(), dtype=np.float64)


def _run(substrate: Substrate, *, payloads: Sequence[Payload], owners: frozenset[str]) -> Observation:
    """Correlates the decoded bits with each payload of the registry.

    A picture without a mark gives bits that lean on its content and are no fair coins, so agreeing bits are not
    counted against 1/2: the correlation of the centred soft bits with a payload that is unrelated to them follows
    Student's distribution (`dwt_marks.match_payload`). A payload that is not in the registry is not found.
    """
    if substrate.height_px * substrate.width_px < MIN_PIXELS or min(substrate.rgb.shape[:2]) < TILE_PX:
        size = f"{substrate.width_px} x {substrate.height_px}"
        return not_applicable("too_small", f"{size} pixels are less than the 256 x 256 that the scheme needs")
    try:
        decoder = load_decoder(substrate.device)
    except DecoderMissingError as error:
        return not_applicable("decoder_missing", str(error))
    bits = soft_bits(substrate.rgb, decoder, substrate.device)
    scores = [match_payload(bits[None], payload, period=1) for payload in payloads]
    best = min(scores, key=lambda score: score.log10_p)
    log10_nfa = best.log10_p + float(np.log10(len(scores)))
    detected = log10_nfa < MAX_LOG10_NFA
    variant = "not_detected" if not detected else "owner_mark" if best.generator in owners else "detected"
    return Observation(
        Outcome.TESTED,
        score=float(np.clip(-log10_nfa, 0.0, _SCORE_LIMIT)),
        score_meaning="-log10 of the number of false alarms of the best known payload, 0..30; larger = surer",
        log10_nfa=log10_nfa,
        p_value=float(min(10.0**log10_nfa, 1.0)),
        detected=detected,
        explanation_key=f"{_ID}.{variant}",
        measurements=(
            Measurement("payload_correlation", best.correlation, "1"),
            Measurement("payload_bit_agreement", best.bit_agreement, "1"),
            Measurement("median_soft_bit", float(np.median(np.abs(bits))), "1"),
            Measurement("payloads_tested", float(len(payloads)), "count"),
        ),
        details={"payload_of": best.generator} if detected else {},
    )


def make_test(owned: Sequence[Payload] = ()) -> Test:
    """The test for the packaged payloads of generators and those of owners, each of 32 bits.

    Args:
        owned: payloads of the service's owners, who mark pictures that no generator made: finding one is no sign of AI.

    Raises:
        ValueError: a payload has another length.
    """
    payloads = (*RIVAGAN_PAYLOADS, *owned)
    wrong = [payload.generator for payload in payloads if len(payload.bits) != BITS]
    if wrong:
        raise ValueError(f"RivaGAN carries {BITS} bits; other lengths: {', '.join(wrong)}")
    return Test(
        id=_ID,
        description="Looks for known payloads of the RivaGAN watermark with its published decoder.",
        source="Zhang, Xu, Cuesta-Infante, Veeramachaneni: arXiv 1909.01285, 2019; decoder of invisible-watermark",
        run=functools.partial(_run, payloads=payloads, owners=frozenset(p.generator for p in owned)),
    )


TEST: Final = make_test()
