"""JPEG files as forensics reads them: quantised DCT coefficients, quantisation tables, subsampling."""

from __future__ import annotations

import os
from dataclasses import dataclass

import jpeglib
import numpy as np
import numpy.typing as npt

_ANNEX_K_LUMA = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    dtype=np.int64,
)
"""ITU-T T.81, table K.1."""


def standard_table(quality: int) -> npt.NDArray[np.int64]:
    """The luminance table that libjpeg derives for a quality of 1..100, shape (8, 8), values 1..255."""
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((_ANNEX_K_LUMA * scale + 50) // 100, 1, 255)


def estimate_quality(table: npt.NDArray[np.integer]) -> tuple[int, bool]:
    """The libjpeg quality whose luminance table is nearest in mean absolute difference.

    Args:
        table: luminance quantisation table, shape (8, 8), natural order.

    Returns:
        Quality 1..100, and whether the table is exactly libjpeg's.
    """
    distances = [float(np.abs(standard_table(q) - table).mean()) for q in range(1, 101)]
    best = int(np.argmin(distances))
    return best + 1, distances[best] == 0.0


@dataclass(frozen=True, eq=False)
class JpegData:
    """Coefficients and tables of one JPEG file."""

    luma: npt.NDArray[np.int16]
    """Quantised luminance coefficients, shape (block rows, block columns, 8, 8), natural order [vertical,
    horizontal]."""
    chroma: tuple[npt.NDArray[np.int16], ...]
    """Quantised Cb and Cr coefficients in the same layout; empty for grey."""
    tables: tuple[npt.NDArray[np.int64], ...]
    """Quantisation table per component (Y, Cb, Cr), each (8, 8), natural order."""
    subsampling: str
    """"4:4:4", "4:2:2", "4:2:0", "4:4:0", "4:1:1", "grey" or "other"."""
    progressive: bool
    quality: int
    """Nearest libjpeg quality of the luminance table, 1..100."""
    standard_tables: bool
    """Whether the luminance table is exactly libjpeg's for that quality."""


def read_jpeg(data: bytes) -> JpegData | None:
    """Reads the coefficients of a JPEG file.

    Returns:
        None when the library cannot read them (arithmetic coding, 12 bit, CMYK, damage).
    """
    descriptor = os.memfd_create("maifs-jpeg")
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        return read_jpeg_file(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)


def read_jpeg_file(path: str) -> JpegData | None:
    """Reads the coefficients of the JPEG file at a path; see `read_jpeg`."""
    try:
        image = jpeglib.read_dct(path)
        image.load()
    except (OSError, RuntimeError, ValueError, AssertionError):
        return None
    return _to_data(image)


def _to_data(image: jpeglib.DCTJPEG) -> JpegData | None:
    if image.Y is None or image.num_components not in (1, 3):
        return None
    tables = tuple(np.array(image.qt[i], dtype=np.int64) for i in image.quant_tbl_no[: image.num_components])
    quality, exact = estimate_quality(tables[0])
    chroma = tuple(np.asarray(c) for c in (image.Cb, image.Cr) if c is not None)
    return JpegData(
        luma=np.asarray(image.Y),
        chroma=chroma,
        tables=tables,
        subsampling=_subsampling(image) if chroma else "grey",
        progressive=bool(image.progressive_mode),
        quality=quality,
        standard_tables=exact,
    )


def _subsampling(image: jpeglib.DCTJPEG) -> str:
    factors = np.array(image.samp_factor).astype(int)
    vertical, horizontal = (int(v) for v in factors[0] // factors[1])
    names = {(1, 1): "4:4:4", (1, 2): "4:2:2", (2, 2): "4:2:0", (2, 1): "4:4:0", (1, 4): "4:1:1"}
    return names.get((vertical, horizontal), "other")
