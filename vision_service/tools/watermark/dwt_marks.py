"""Known payloads of the open dwtDct and dwtDctSvd watermarks, found by a centred matched filter."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from vision_service.domain import Measurement, Observation, Outcome, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark.payloads import PAYLOADS, Payload

FloatArray = npt.NDArray[np.float64]

STEP: Final = 36.0
"""Quantisation step of the schemes, in units of the wavelet coefficient (two grey levels each)."""
CELL_PX: Final = 8
"""Side of the square that carries one bit: 4 x 4 coefficients of the low band at half resolution."""
MIN_PIXELS: Final = 256 * 256
"""The schemes refuse to embed into less."""
MAX_LOG10_NFA: Final = -4.3
"""Detection threshold of each of the two decoders: together 1e-4 false alarms per picture."""

_STRIP_ROWS: Final = 1024
_BACKGROUND_CELLS: Final = 5
_LEVEL_CELLS: Final = 3
_LEVEL_LIMIT: Final = 1.5
_SCORE_LIMIT: Final = 30.0
_TINY: Final = 1e-12

Reader = Callable[[torch.Tensor], list[FloatArray]]


def low_band_blocks(rgb: npt.NDArray[np.uint8], device: torch.device) -> torch.Tensor:
    """Haar low band of the U channel in 4 x 4 blocks.

    Args:
        rgb: shape (H, W, 3), at least 8 x 8.
        device: where to compute.

    Returns:
        float32, shape (H // 8, W // 8, 16): the coefficients (sum of 2 x 2 pixels) / 2 of each block, row by row.
    """
    rows, columns = rgb.shape[0] // CELL_PX, rgb.shape[1] // CELL_PX
    strips = []
    for top in range(0, rows * CELL_PX, _STRIP_ROWS):
        part = rgb[top : min(top + _STRIP_ROWS, rows * CELL_PX), : columns * CELL_PX]
        u = cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2YUV)[:, :, 1]
        plane = torch.from_numpy(np.ascontiguousarray(u)).to(device).to(torch.float32)[None, None]
        low = 2.0 * torch.nn.functional.avg_pool2d(plane, 2)[0, 0]
        blocks = low.reshape(low.shape[0] // 4, 4, columns, 4).permute(0, 2, 1, 3)
        strips.append(blocks.reshape(low.shape[0] // 4, columns, 16))
    return torch.cat(strips)


def largest_coefficient(blocks: torch.Tensor) -> torch.Tensor:
    """The carrier of dwtDct: the largest magnitude among all coefficients of a block but the first."""
    return blocks[..., 1:].abs().amax(dim=-1)


def largest_singular_value(blocks: torch.Tensor) -> torch.Tensor:
    """The carrier of dwtDctSvd: the largest singular value of a block.

    The scheme takes it of the block's DCT, which is orthonormal and leaves it as it is. By power iteration, which
    converges in a few steps because the blocks are nearly constant.
    """
    matrices = blocks.reshape(*blocks.shape[:-1], 4, 4)
    gram = matrices.transpose(-1, -2) @ matrices
    vector = torch.ones(*blocks.shape[:-1], 4, 1, device=blocks.device)
    for _ in range(6):
        vector = gram @ vector
        vector = vector / torch.linalg.vector_norm(vector, dim=-2, keepdim=True).clamp_min(_TINY)
    largest: torch.Tensor = torch.linalg.vector_norm(matrices @ vector, dim=-2).squeeze(-1)
    return largest


def soft_bits(carrier: torch.Tensor) -> FloatArray:
    """Soft bit of each carrier value: -1 at the middle of a "0" cell (1/4 step), +1 at that of a "1" cell (3/4)."""
    phase = torch.remainder(carrier, STEP) * (2 * torch.pi / STEP)
    return -torch.sin(phase).cpu().numpy().astype(np.float64)


def detail(values: FloatArray, cells: int) -> FloatArray:
    """What differs from the mean of the surrounding `cells` x `cells` blocks: content makes neighbours equal."""
    return values - cv2.blur(values, (cells, cells), borderType=cv2.BORDER_REFLECT)


def phase_readings(blocks: torch.Tensor) -> list[FloatArray]:
    """One reading of a dwtDctSvd mark: the phase of the largest singular value."""
    return [detail(soft_bits(largest_singular_value(blocks)), _BACKGROUND_CELLS)]


def level_readings(blocks: torch.Tensor) -> list[FloatArray]:
    """Two readings of a dwtDct mark.

    Writing a "1" instead of a "0" lifts one coefficient by half a step, 18, and so the mean of its block by 18 / 16.
    JPEG smears the coefficient over its block but keeps the mean, which therefore outlives the phase. The first
    reading adds the phase to the mean in units of its local spread, the second clips the mean to what a mark explains.
    """
    level = detail(blocks.mean(dim=-1).cpu().numpy().astype(np.float64), _LEVEL_CELLS)
    spread = np.sqrt(np.maximum(cv2.blur(level * level, (_BACKGROUND_CELLS, _BACKGROUND_CELLS)), 0.0))
    phase = detail(soft_bits(largest_coefficient(blocks)), _BACKGROUND_CELLS)
    return [phase + level / (spread + 0.3), np.clip(level, -_LEVEL_LIMIT, _LEVEL_LIMIT)]


@dataclass(frozen=True)
class MarkScore:
    """How well one payload explains a picture."""

    generator: str
    correlation: float
    """Between the payload and the mean reading at each of its positions, -1..1."""
    log10_p: float
    """One-sided, log10 of the probability under unrelated readings."""
    bit_agreement: float
    """Share of positions whose mean reading and bit have the same sign after centring, 0..1."""


def match_payload(reading: FloatArray, payload: Payload, period: int | None = None) -> MarkScore:
    """Correlates a reading with a payload that is repeated over the blocks in raster order.

    Payload and mean reading by position are centred within each residue class of the positions modulo P, where P is 8
    for payloads of whole bytes and 2 for others of even length: text has a pattern of period 8, and so have chroma
    JPEG and resized pictures over the blocks. Under H0 the rest is exchangeable and t = r sqrt(f / (1 - r^2)) is
    Student's with f = n - P - 1 degrees of freedom for a payload of n bits. A binomial null on raw bits would be wrong
    by far: flat areas read as constants.

    Args:
        reading: shape (block rows, block columns), larger = more like a "1", freed of content (`detail`).
        payload: the expected payload.
        period: P; chosen as said when not given.
    """
    n = len(payload.bits)
    position = np.arange(reading.size) % n
    counts = np.bincount(position, minlength=n)
    means = np.bincount(position, weights=reading.ravel(), minlength=n) / np.maximum(counts, 1)
    period = period or (8 if n % 8 == 0 else 2 if n % 2 == 0 else 1)
    means, expected = _centred(means, period), _centred(payload.bits.astype(np.float64), period)
    power = float(np.sqrt((means**2).sum() * (expected**2).sum()))
    r = float((means * expected).sum() / power) if power > _TINY else 0.0
    r = min(max(r, -1 + _TINY), 1 - _TINY)
    freedom = n - period - 1
    t = r * np.sqrt(freedom / (1 - r * r))
    log10_p = float(stats.t.logsf(t, freedom) / np.log(10))
    return MarkScore(payload.generator, r, log10_p, float(((means > 0) == (expected > 0)).mean()))


def _centred(values: FloatArray, period: int) -> FloatArray:
    table = values.reshape(-1, period)
    return np.asarray(table - table.mean(axis=0), dtype=np.float64).ravel()


def _run(substrate: Substrate, *, test_id: str, reader: Reader, payloads: Sequence[Payload]) -> Observation:
    pixels = substrate.height_px * substrate.width_px
    if pixels < MIN_PIXELS or min(substrate.height_px, substrate.width_px) < CELL_PX:
        return not_applicable(
            "too_small",
            f"{substrate.width_px} x {substrate.height_px} pixels are less than the 256 x 256 that the scheme needs",
        )
    readings = reader(low_band_blocks(substrate.rgb, substrate.device))
    scores = [match_payload(reading, payload) for reading in readings for payload in payloads]
    best = min(scores, key=lambda score: score.log10_p)
    log10_nfa = best.log10_p + float(np.log10(len(scores)))
    detected = log10_nfa < MAX_LOG10_NFA
    return Observation(
        Outcome.TESTED,
        score=float(np.clip(-log10_nfa, 0.0, _SCORE_LIMIT)),
        score_meaning="-log10 of the number of false alarms of the best known payload, 0..30; larger = surer",
        log10_nfa=log10_nfa,
        p_value=float(min(10.0**log10_nfa, 1.0)),
        detected=detected,
        explanation_key=f"{test_id}.{'detected' if detected else 'not_detected'}",
        measurements=(
            Measurement("payload_correlation", best.correlation, "1"),
            Measurement("payload_bit_agreement", best.bit_agreement, "1"),
            Measurement("payloads_tested", float(len(payloads)), "count"),
        ),
        details={"payload_of": best.generator} if detected else {},
    )


def make_tests(payloads: Sequence[Payload] = PAYLOADS) -> tuple[Test, Test]:
    """The tests "watermark.dwt_dct" and "watermark.dwt_dct_svd" for a registry of payloads."""
    source = "Q. Zhang, invisible-watermark (ShieldMnt), schemes dwtDct and dwtDctSvd; centred matched filter"
    schemes = (("dwt_dct", level_readings), ("dwt_dct_svd", phase_readings))
    dct, svd = (
        Test(
            id=f"watermark.{name}",
            description="Looks for the invisible marks that known image generators embed, by their payloads.",
            source=source,
            run=functools.partial(_run, test_id=f"watermark.{name}", reader=reader, payloads=tuple(payloads)),
        )
        for name, reader in schemes
    )
    return dct, svd


TESTS: Final = make_tests()
