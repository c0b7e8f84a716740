"""Labelled pictures: the manifest, what the tests observed on a copy, how well a map finds the edited pixels."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from serving.errors import MaifsError, Reason
from vision_service.domain import HeatMap, Observation, Outcome

LABELS = ("authentic", "manipulated", "ai_generated")
"""The three classes as a manifest names them."""


@dataclass(frozen=True)
class Item:
    """One labelled picture."""

    path: Path
    label: str
    source: str
    mask: Path | None = None


@dataclass(frozen=True)
class Record:
    """What the tests observed on one copy of one picture."""

    image: str
    """File name."""
    label: str
    """Label of this copy: "manipulated" for a forged copy of an authentic picture."""
    source: str
    rung: str
    stratum: str
    megapixels: float
    observations: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By test id: outcome, score, detected, explanation_key, seconds, and pixel figures where there is a mask."""

    def observation(self, test_id: str) -> Observation:
        """The observation as calibration sees it (without maps and numbers)."""
        entry = self.observations[test_id]
        return Observation(
            Outcome(entry["outcome"]),
            reason=entry["reason"],
            score=entry["score"],
            detected=entry["detected"],
            explanation_key=entry["explanation_key"],
        )


def read_manifest(folder: Path) -> list[Item]:
    """Reads manifest.csv: columns file and label, and optionally source (default: the folder's name) and mask.

    Raises:
        MaifsError: FILE_UNREADABLE without a manifest; INVALID_REQUEST when it has a fault; NO_IMAGES when empty.
    """
    try:
        with (folder / "manifest.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE, f"{folder / 'manifest.csv'} cannot be read: {error.strerror}."
        ) from error
    items = [_item(folder, number, row) for number, row in enumerate(rows, 2)]
    if not items:
        raise MaifsError(Reason.NO_IMAGES, f"{folder / 'manifest.csv'} names no image.")
    return items


def authentic_folder(argument: str) -> list[Item]:
    """Pictures of "SOURCE=FOLDER", all authentic: every JPEG, PNG, WebP or TIFF file directly in the folder."""
    source, _, folder = argument.rpartition("=")
    path = Path(folder)
    files = sorted(p for p in path.glob("*") if p.suffix.lower() in {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})
    if not files:
        raise MaifsError(Reason.NO_IMAGES, f"{path} has no image file.")
    return [Item(file, "authentic", source or path.name) for file in files]


def _item(folder: Path, line: int, row: dict[str, str]) -> Item:
    where = f"{folder / 'manifest.csv'} line {line}"
    if not row.get("file") or row.get("label") not in LABELS:
        raise MaifsError(
            Reason.INVALID_REQUEST,
            f"{where}: file is {row.get('file')!r} and label is {row.get('label')!r}.",
            f"Every line needs a file and one of the labels {', '.join(LABELS)}.",
        )
    mask = folder / row["mask"] if row.get("mask") else None
    return Item(folder / row["file"], row["label"], row.get("source") or folder.name, mask)


@dataclass(frozen=True)
class PixelFigures:
    """How well a heat map finds the edited pixels."""

    auc: float
    f1_fixed: float
    """At half of the map's range."""
    f1_best: float
    """At the best threshold for this picture."""


def pixel_figures(heat_map: HeatMap, mask: npt.NDArray[np.bool_]) -> PixelFigures:
    """Figures of a map against a mask of full size, shape (H, W), at the map's resolution of cells."""
    height, width = mask.shape
    full = np.repeat(np.repeat(heat_map.values, heat_map.cell_px, 0), heat_map.cell_px, 1)[:height, :width]
    mask = mask[: full.shape[0], : full.shape[1]]
    edited = np.bincount(full[mask], minlength=256).astype(float)
    other = np.bincount(full[~mask], minlength=256).astype(float)
    if not edited.sum() or not other.sum():
        return PixelFigures(0.5, 0.0, 0.0)
    true_positive = np.cumsum(edited[::-1])[::-1]  # at thresholds 0..255
    false_positive = np.cumsum(other[::-1])[::-1]
    f1 = 2 * true_positive / (true_positive + false_positive + edited.sum())
    below = np.concatenate([[0.0], np.cumsum(other)[:-1]])
    auc = float((edited * (below + other / 2)).sum() / (edited.sum() * other.sum()))
    return PixelFigures(auc, float(f1[128]), float(f1.max()))


def read_mask(item: Item, height: int, width: int) -> npt.NDArray[np.bool_] | None:
    """Edited pixels, shape (height, width); None when the picture has no mask."""
    if item.mask is None or not item.mask.is_file():
        return None
    image = Image.open(item.mask).convert("L").resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image) > 127
