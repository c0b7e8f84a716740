"""The photographs from which weights may be made, and the part of them that only validates."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vision_service.laundering import decode_rgb

ByteArray = npt.NDArray[np.uint8]

PERMITTED_SOURCE = "metadata-extractor-images"
"""The source of `photos/` that is of the same repository as `camera/`, free to use."""

VALIDATION_SHARE = 0.2


@dataclass(frozen=True)
class Photograph:
    """A camera's file."""

    path: Path
    name: str
    validates: bool
    """True: never trained on. Decided by the digest of the name, so that it stays when files are added."""

    def rgb(self) -> ByteArray:
        """Pixels, shape (H, W, 3)."""
        return decode_rgb(self.path.read_bytes())


def permitted_photographs(data: Path) -> list[Photograph]:
    """All of `camera/` and the permitted source of `photos/`, in the order of their names.

    Args:
        data: folder with `camera/manifest.csv` and `photos/manifest.csv`.
    """
    camera = [data / "camera" / row["file"] for row in _rows(data / "camera")]
    photos = [
        data / "photos" / row["file"]
        for row in _rows(data / "photos")
        if row["source"] == PERMITTED_SOURCE and row["label"] == "authentic"
    ]
    return sorted((_photograph(path) for path in camera + photos), key=lambda photograph: photograph.name)


def _photograph(path: Path) -> Photograph:
    share = hashlib.sha256(path.name.encode()).digest()[0] / 256
    return Photograph(path, path.name, share < VALIDATION_SHARE)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
