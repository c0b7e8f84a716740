"""Pictures whose parts have different processing histories, with exact masks, made of authentic tiles."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from training.histories import ByteArray, draw_history, filtering
from vision_service.jpeg import JpegData, read_jpeg, standard_table
from vision_service.laundering import decode_rgb

FloatArray = npt.NDArray[np.float32]

SIDE_PX = 320
"""Side of a finished picture."""
AUTHENTIC_SHARE = 0.35
"""Of pictures without a foreign region."""

_ROOM = 12  # px by which a layer exceeds the picture: its grid then starts anywhere


@dataclass(frozen=True, eq=False)
class Splice:
    """A finished picture, as the network takes it."""

    coefficients: npt.NDArray[np.int16]
    """Quantised luma coefficients, shape (64, h, w), frequency 8 v + u."""
    table: FloatArray
    """Quantisation table, shape (64,)."""
    luma: npt.NDArray[np.uint8]
    """Shape (SIDE_PX, SIDE_PX)."""
    mask: npt.NDArray[np.float32]
    """Share of the foreign layer per pixel, 0..1, shape (SIDE_PX, SIDE_PX)."""


class SpliceMaker:
    """Draws splices.

    Args:
        authentic: tiles of photographs, (n, S, S, 3).
        repainted: the first of the same tiles by an autoencoder, (m, S, S, 3): what a region is inpainted with.
        tables: luma quantisation tables of cameras, each (8, 8).
    """

    def __init__(self, authentic: ByteArray, repainted: ByteArray, tables: list[npt.NDArray[np.int64]]) -> None:
        self._authentic, self._repainted, self._tables = authentic, repainted, tables

    def draw(self, rng: np.random.Generator) -> Splice:
        """A picture; AUTHENTIC_SHARE of them have an empty mask."""
        i = int(rng.integers(len(self._authentic)))
        ground = self._ground(i, rng)
        mask = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        if rng.random() >= AUTHENTIC_SHARE:
            mask = blob(rng)
            layer = self._layer(i, ground, mask, rng)
            ground = np.rint(ground + mask[..., None] * (layer.astype(np.float32) - ground)).astype(np.uint8)
        ground, mask = _afterwards(ground, mask, rng)
        return self._finished(ground, mask, rng)

    def _ground(self, i: int, rng: np.random.Generator) -> ByteArray:
        tile = self._authentic[i]
        if rng.random() < 0.5:
            tile = _resized(tile, float(rng.uniform((SIDE_PX + _ROOM) / len(tile), 1.0)), rng)
        if rng.random() < 0.85:
            tile = self._saved(tile, rng, least=45)
            if rng.random() < 0.2:
                tile = self._saved(_cropped(tile, rng, SIDE_PX + _ROOM), rng, least=60)
        if rng.random() < 0.5:  # editors keep the grid of what they open
            return np.ascontiguousarray(tile[:SIDE_PX, :SIDE_PX])
        return _cropped(tile, rng, SIDE_PX)

    def _layer(self, i: int, ground: ByteArray, mask: FloatArray, rng: np.random.Generator) -> ByteArray:
        kind = rng.random()
        if kind < 0.2:
            return _edited(ground, mask, rng)
        if kind < 0.35 and i < len(self._repainted):
            top, left = (int(v) for v in rng.integers(0, len(self._repainted[i]) - SIDE_PX + 1, 2))
            return self._repainted[i, top : top + SIDE_PX, left : left + SIDE_PX]
        j = i if kind < 0.5 else int(rng.integers(len(self._authentic)))
        tile = self._authentic[j]
        steps = draw_history(rng)[1] if rng.random() < 0.3 else []
        if rng.random() < 0.6:
            tile = self._saved(tile, rng, least=45)
        if rng.random() < 0.6:
            tile = _resized(tile, float(rng.uniform(0.76, 1.8)), rng)
        for step in steps:
            made = step(tile)
            tile = made if min(made.shape[:2]) >= SIDE_PX else tile
        return _turned(_cropped(tile, rng, SIDE_PX), rng)

    def _saved(self, picture: ByteArray, rng: np.random.Generator, least: int) -> ByteArray:
        return decode_rgb(self._file(picture, rng, least))

    def _file(self, picture: ByteArray, rng: np.random.Generator, least: int) -> bytes:
        """A JPEG file of a random quality and kind of table."""
        quality = int(least + (100 - least) * rng.beta(2.0, 1.2))
        subsampling = ("4:2:0", "4:4:4", "4:2:2")[int(rng.choice(3, p=(0.55, 0.35, 0.1)))]
        options: dict[str, Any] = {"quality": quality}
        if rng.random() < 0.35:
            table = self._table(quality, rng)
            options = {"qtables": [t.ravel().tolist() for t in (table, np.minimum(table * 3 // 2 + 1, 255))]}
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", subsampling=subsampling, **options)
        return buffer.getvalue()

    def _table(self, quality: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """A camera's own table, or one shaped unlike the standard's, as editors have."""
        if rng.random() < 0.4:
            return self._tables[int(rng.integers(len(self._tables)))]
        shape = standard_table(50).astype(np.float64) ** rng.uniform(0.5, 1.1)
        shape *= standard_table(quality).mean() / shape.mean()
        return np.clip(np.rint(shape), 1, 255).astype(np.int64)

    def _finished(self, picture: ByteArray, mask: FloatArray, rng: np.random.Generator) -> Splice:
        if rng.random() < 0.1:
            return without_file(picture, mask)
        data = self._file(picture, rng, least=55)
        if rng.random() < 0.2:
            buffer = io.BytesIO()
            Image.fromarray(decode_rgb(data)).save(buffer, "JPEG", quality=int(rng.integers(70, 96)))
            data = buffer.getvalue()
        jpeg = read_jpeg(data)
        if jpeg is None:
            raise ValueError("a file of our own cannot be read")
        return of_jpeg(jpeg, decode_rgb(data), mask)


def of_jpeg(jpeg: JpegData, rgb: ByteArray, mask: FloatArray) -> Splice:
    """The picture of a JPEG file."""
    rows, columns = (length // 8 for length in rgb.shape[:2])
    coefficients = jpeg.luma[:rows, :columns].reshape(rows, columns, 64).transpose(2, 0, 1)
    return Splice(np.ascontiguousarray(coefficients), jpeg.tables[0].ravel().astype(np.float32), _luma(rgb), mask)


def without_file(rgb: ByteArray, mask: FloatArray) -> Splice:
    """A picture that is not saved as JPEG: coefficients of its pixels, rounded, with a table of ones."""
    luma = _luma(rgb)
    rows, columns = (length // 8 for length in luma.shape)
    blocks = luma.astype(np.float32).reshape(rows, 8, columns, 8).transpose(0, 2, 1, 3) - 128
    matrix = np.stack([cv2.dct(row[:, None])[:, 0] for row in np.eye(8, dtype=np.float32)], axis=1)
    made = np.rint(matrix @ blocks @ matrix.T).reshape(rows, columns, 64).transpose(2, 0, 1)
    return Splice(made.astype(np.int16), np.ones(64, np.float32), luma, mask)


def _luma(rgb: ByteArray) -> ByteArray:
    return np.asarray(np.rint(rgb @ np.array([0.299, 0.587, 0.114])), np.uint8)


def blob(rng: np.random.Generator) -> FloatArray:
    """An irregular region of 1 to 35 % of the picture, its edge hard or soft."""
    if rng.random() < 0.35:
        noise = cv2.GaussianBlur(
            rng.standard_normal((SIDE_PX, SIDE_PX)).astype(np.float32), (0, 0), rng.uniform(15, 45)
        )
        mask = (noise > np.quantile(noise, 1 - rng.uniform(0.03, 0.35))).astype(np.float32)
    else:
        area = float(np.exp(rng.uniform(np.log(0.012), np.log(0.35)))) * SIDE_PX**2
        aspect = float(np.exp(rng.uniform(-0.8, 0.8)))
        axes = np.sqrt(area / np.pi * np.array([aspect, 1 / aspect]))
        centre = rng.uniform(0.1, 0.9, 2) * SIDE_PX
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        waves = 1 + sum(rng.uniform(-0.2, 0.2) * np.sin(k * angles + rng.uniform(0, 6.3)) for k in (1, 2, 3, 5))
        points = np.stack([axes[0] * np.cos(angles), axes[1] * np.sin(angles)], 1) * np.asarray(waves)[:, None]
        turn = rng.uniform(0, np.pi)
        points = points @ np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        mask = np.zeros((SIDE_PX, SIDE_PX), np.float32)
        cv2.fillPoly(mask, [np.rint(points + centre).astype(np.int32)], 1.0)
    if rng.random() < 0.6:
        mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), rng.uniform(0.6, 2.5)), np.float32)
    return np.asarray(mask, np.float32)


def _edited(ground: ByteArray, mask: FloatArray, rng: np.random.Generator) -> ByteArray:
    """The same content by a local edit: a filter, noise, shifting, warping or OpenCV's inpainting."""
    kind = rng.random()
    if kind < 0.35:
        return filtering(rng)(filtering(rng)(ground))
    if kind < 0.65:
        return np.roll(ground, tuple(int(v) for v in rng.integers(20, SIDE_PX - 20, 2)), axis=(0, 1))
    if kind < 0.9:
        matrix = cv2.getRotationMatrix2D((SIDE_PX / 2, SIDE_PX / 2), rng.uniform(-20, 20), rng.uniform(0.9, 1.5))
        return np.asarray(
            cv2.warpAffine(ground, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
        )
    return np.asarray(cv2.inpaint(ground, (mask > 0).astype(np.uint8), 3, cv2.INPAINT_TELEA))


def _afterwards(picture: ByteArray, mask: FloatArray, rng: np.random.Generator) -> tuple[ByteArray, FloatArray]:
    """What editors do to the whole picture before they save it: nothing in most cases."""
    if rng.random() < 0.12:
        picture = filtering(rng)(picture)
    if rng.random() < 0.12:
        scale = float(rng.uniform(0.6, 0.95))
        small, small_mask = _resized(picture, scale, rng), cv2.resize(mask, None, fx=scale, fy=scale)
        mask = np.asarray(small_mask[: small.shape[0], : small.shape[1]], np.float32)
        picture, mask = _mirrored(small), _mirrored(mask)
    return picture, mask


def _mirrored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Filled up to SIDE_PX by reflection."""
    pads = [(0, SIDE_PX - length) for length in array.shape[:2]] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, pads, mode="symmetric")


def _resized(picture: ByteArray, scale: float, rng: np.random.Generator) -> ByteArray:
    size = (round(picture.shape[1] * scale), round(picture.shape[0] * scale))
    if rng.random() < 0.5:
        kinds = (Image.Resampling.LANCZOS, Image.Resampling.BICUBIC, Image.Resampling.BILINEAR)
        return np.asarray(Image.fromarray(picture).resize(size, kinds[int(rng.integers(3))]))
    kind = (cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LINEAR, cv2.INTER_LANCZOS4)[int(rng.integers(4))]
    return np.asarray(cv2.resize(picture, size, interpolation=kind), np.uint8)


def _cropped(picture: ByteArray, rng: np.random.Generator, side: int) -> ByteArray:
    top, left = (int(rng.integers(0, length - side + 1)) for length in picture.shape[:2])
    return np.ascontiguousarray(picture[top : top + side, left : left + side])


def _turned(picture: ByteArray, rng: np.random.Generator) -> ByteArray:
    turned = np.rot90(picture, int(rng.integers(4))) if rng.random() < 0.3 else picture
    return turned[:, :: int(rng.choice([-1, 1]))]
