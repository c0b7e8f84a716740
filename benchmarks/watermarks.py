"""Embeds the open dwtDct, dwtDctSvd and RivaGAN watermarks, and measures how the decoders find them after laundering.

Run: python -m benchmarks.watermarks [--data DIR] [--limit N] [--schemes dwt_dct dwt_dct_svd rivagan]
     python -m benchmarks.watermarks --null --data DIR [--limit N]
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.camera import ByteArray, photo
from benchmarks.rivagan import embed_rivagan, null_p_values
from vision_service.decode import decode
from vision_service.domain import Test
from vision_service.limits import DecodeLimits
from vision_service.tools.watermark import rivagan
from vision_service.tools.watermark.dwt_marks import STEP, TESTS
from vision_service.tools.watermark.payloads import PAYLOADS, RIVAGAN_PAYLOADS, Payload

FloatArray = npt.NDArray[np.float32]


def embed(rgb: ByteArray, payload: Payload, scheme: str) -> ByteArray:
    """Embeds a payload as the open schemes do: one bit per 8 x 8 pixels in the Haar low band of U.

    Args:
        rgb: shape (H, W, 3), at least 256 x 256 pixels.
        payload: repeated in raster order.
        scheme: "dwt_dct" moves the largest coefficient of a block (but the first), "dwt_dct_svd" the largest singular
            value of its DCT, to 1/4 or 3/4 of a step of 36.
    """
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    height, width = (side // 8 * 8 for side in rgb.shape[:2])
    u = yuv[:height, :width, 1].astype(np.float32)
    low = np.asarray((u[0::2, 0::2] + u[0::2, 1::2] + u[1::2, 0::2] + u[1::2, 1::2]) / 2, dtype=np.float32)
    blocks = low.reshape(height // 8, 4, width // 8, 4).transpose(0, 2, 1, 3).reshape(-1, 4, 4)
    bits = np.resize(payload.bits, len(blocks))
    moved = {"dwt_dct": _move_coefficient, "dwt_dct_svd": _move_singular_value}[scheme](blocks.astype(np.float32), bits)
    change = (moved - blocks).reshape(height // 8, width // 8, 4, 4).transpose(0, 2, 1, 3).reshape(low.shape) / 2
    marked = u + np.repeat(np.repeat(change, 2, axis=0), 2, axis=1)
    # The schemes write the float plane into bytes, which cuts fractions off.
    yuv[:height, :width, 1] = np.clip(marked, 0, 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB), dtype=np.uint8)


def _quantised(values: FloatArray, bits: npt.NDArray[np.int8]) -> FloatArray:
    return np.asarray((values // STEP + 0.25 + 0.5 * bits) * STEP, dtype=np.float32)


def _move_coefficient(blocks: FloatArray, bits: npt.NDArray[np.int8]) -> FloatArray:
    flat = blocks.reshape(-1, 16)
    place = 1 + np.abs(flat[:, 1:]).argmax(axis=1)
    row = np.arange(len(flat))
    flat[row, place] = _quantised(flat[row, place], bits)
    return flat.reshape(-1, 4, 4)


def _move_singular_value(blocks: FloatArray, bits: npt.NDArray[np.int8]) -> FloatArray:
    left, values, right = np.linalg.svd(blocks)
    values[:, 0] = _quantised(values[:, 0], bits)
    return np.asarray(left @ (values[:, :, None] * right), dtype=np.float32)


def _saved(file_format: str, **options: object) -> Callable[[ByteArray], bytes]:
    def save(rgb: ByteArray) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(rgb).save(buffer, file_format, **options)
        return buffer.getvalue()

    return save


def _scaled(factor: float, quality: int | None = None) -> Callable[[ByteArray], bytes]:
    save = _saved("PNG") if quality is None else _saved("JPEG", quality=quality)
    how = cv2.INTER_AREA
    return lambda rgb: save(np.asarray(cv2.resize(rgb, None, fx=factor, fy=factor, interpolation=how), dtype=np.uint8))


def _cropped(rgb: ByteArray) -> bytes:
    """An eighth of either side is cut away in front, off every lattice."""
    return _saved("PNG")(np.ascontiguousarray(rgb[rgb.shape[0] // 8 | 1 :, rgb.shape[1] // 8 | 1 :]))


LAUNDERINGS: Final[dict[str, Callable[[ByteArray], bytes]]] = {
    "lossless": _saved("PNG"),
    "JPEG 95": _saved("JPEG", quality=95),
    "JPEG 90": _saved("JPEG", quality=90),
    "JPEG 85": _saved("JPEG", quality=85),
    "JPEG 75": _saved("JPEG", quality=75),
    "WebP 80": _saved("WEBP", quality=80),
    "3/4 size": _scaled(0.75),
    "half size": _scaled(0.5),
    "3/4 + JPEG 85": _scaled(0.75, 85),
    "cropped": _cropped,
}
"""What may have happened to a marked picture."""

REGISTRY: Final[dict[str, tuple[Test, tuple[Payload, ...]]]] = {
    "dwt_dct": (TESTS[0], PAYLOADS),
    "dwt_dct_svd": (TESTS[1], PAYLOADS),
    "rivagan": (rivagan.TEST, RIVAGAN_PAYLOADS),
}
"""Test and payloads by scheme."""


def _marked(rgb: ByteArray, payload: Payload, scheme: str) -> ByteArray:
    return embed_rivagan(rgb, payload) if scheme == "rivagan" else embed(rgb, payload, scheme)


def detection_rates(pictures: Sequence[ByteArray], test: Test, payload: Payload) -> dict[str, float]:
    """Share of marked pictures in which the test names the payload's generator, by laundering."""
    scheme = test.id.removeprefix("watermark.")
    found = dict.fromkeys(LAUNDERINGS, 0)
    for rgb in pictures:
        marked = _marked(rgb, payload, scheme)
        for name, launder in LAUNDERINGS.items():
            observation = test.run(decode(launder(marked), DecodeLimits()))
            found[name] += observation.detected and observation.details.get("payload_of") == payload.generator
    return {name: count / len(pictures) for name, count in found.items()}


def _pictures(folder: Path | None, limit: int) -> list[ByteArray]:
    if folder is None:
        return [photo(512, 512, seed) for seed in range(limit)]
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png"})
    spread = files[:: max(1, len(files) // limit)]
    pictures = (decode(path.read_bytes(), DecodeLimits()).rgb[:1024, :1024] for path in spread)
    return [np.ascontiguousarray(p) for p in pictures if p.shape[0] * p.shape[1] >= 300_000][:limit]


def _rates(pictures: Sequence[ByteArray], schemes: Sequence[str]) -> Table:
    table = Table(*("scheme", "payload", *LAUNDERINGS, "false alarms", "ms/MP"))
    clean = [decode(_saved("PNG")(rgb), DecodeLimits()) for rgb in pictures]
    for test, payloads in (REGISTRY[scheme] for scheme in schemes):
        start = time.perf_counter()
        alarms = sum(test.run(substrate).detected for substrate in clean)
        pace = 1e9 * (time.perf_counter() - start) / sum(s.rgb.size / 3 for s in clean)
        for payload in payloads:
            rates = detection_rates(pictures, test, payload)
            cells = [f"{rates[name]:.0%}" for name in LAUNDERINGS]
            table.add_row(test.id, payload.generator, *cells, f"{alarms}/{len(clean)}", f"{pace:.0f}")
    return table


def _null(folder: Path, limit: int) -> Table:
    """How p-values of RivaGAN payloads lie on unmarked pictures; right ones give as many below p as p says."""
    table = Table("file", "pictures", "payload", "p-values", "p < 1e-2", "p < 1e-3", "p < 1e-4", "least p")
    pictures = _pictures(folder, limit)
    for name, launder in (("lossless", LAUNDERINGS["lossless"]), ("JPEG 75", LAUNDERINGS["JPEG 75"])):
        values = np.stack([null_p_values(decode(launder(rgb), DecodeLimits()).rgb) for rgb in pictures])
        for payload, p in (("SDV2", values[:, :1]), ("random", values[:, 1:])):
            cells = [f"{np.mean(p < limit):.2%}" for limit in (1e-2, 1e-3, 1e-4)]
            table.add_row(name, f"{len(pictures)}", payload, f"{p.size}", *cells, f"{p.min():.1e}")
    return table


def main() -> None:
    """Prints detection rates on marked pictures, false alarms on unmarked ones and the time of each decoder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of pictures; synthetic ones when not given")
    parser.add_argument("--limit", type=int, default=24, help="pictures to use")
    parser.add_argument("--schemes", nargs="*", choices=REGISTRY, default=list(REGISTRY))
    parser.add_argument("--null", action="store_true", help="p-values of RivaGAN payloads on unmarked pictures instead")
    arguments = parser.parse_args()
    if arguments.null and arguments.data is None:
        parser.error("--null needs --data")
    torch.set_num_threads(1)
    table = (
        _null(arguments.data, arguments.limit)
        if arguments.null
        else _rates(_pictures(arguments.data, arguments.limit), arguments.schemes)
    )
    Console(width=190).print(table)


if __name__ == "__main__":
    main()
