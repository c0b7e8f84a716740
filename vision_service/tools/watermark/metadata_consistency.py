"""Camera metadata against the file that carries it: size, thumbnail, times, segments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from vision_service.container import Container
from vision_service.domain import Measurement, Observation, Outcome, Region, Test, not_applicable
from vision_service.substrate import Substrate
from vision_service.tools.watermark.jpeg_structure import JpegStructure, read_structure
from vision_service.tools.watermark.metadata_source import DETAIL_LIMIT, read_xmp_safely
from vision_service.tools.watermark.signatures import match_rules, metadata_fields, packaged_rules
from vision_service.tools.watermark.thumbnail import CROP_CORRELATION, Comparison, compare

SCORES: Final = {
    "thumbnail_content_differs": 3.0,
    "thumbnail_of_other_picture": 2.0,
    "thumbnail_mirrored": 1.5,
    "thumbnail_shows_more": 1.0,
    "size_differs": 1.0,
    "resaved": 0.5,
    "consistent": 0.0,
    "consistent_with_thumbnail": 0.0,
}
"""By variant, strongest first."""

_ID: Final = "watermark.metadata_consistency"
_DETECTED: Final = frozenset({"thumbnail_content_differs"})
_MAX_SAVING_S: Final = 60.0
_PHOTOSHOP_SEGMENTS: Final = ("Photoshop 3.0", "Adobe")


@dataclass(frozen=True)
class Traces:
    """What tells that a camera's file was written again, none of which means that its content was changed."""

    size_differs: bool
    """EXIF announces another size than the file has, in either orientation."""
    editor_named: bool
    later_time: bool
    """DateTime is more than a minute after DateTimeOriginal."""
    editor_segments: bool
    """Segments that Adobe's encoders write."""
    program_encoder: bool
    """JFIF before EXIF together with the very tables of libjpeg."""

    @property
    def resaved(self) -> bool:
        """At least one trace of saving after capture."""
        return self.editor_named or self.later_time or self.editor_segments or self.program_encoder


def announced_size(exif: Mapping[str, str]) -> tuple[int, int] | None:
    """(width, height) that EXIF announces for the main picture; None when it announces none."""
    try:
        width, height = int(float(exif["ExifImageWidth"])), int(float(exif["ExifImageHeight"]))
    except (KeyError, ValueError, OverflowError):
        return None
    return (width, height) if width > 0 and height > 0 else None


def capture_delay_s(exif: Mapping[str, str]) -> float | None:
    """Seconds from DateTimeOriginal to DateTime; None when one is missing or no time."""
    try:
        changed, taken = (
            datetime.strptime(exif[name][:19], "%Y:%m:%d %H:%M:%S") for name in ("DateTime", "DateTimeOriginal")
        )
    except (KeyError, ValueError):
        return None
    return (changed - taken).total_seconds()


def find_traces(substrate: Substrate, structure: JpegStructure | None) -> Traces:
    """Compares camera metadata with the file."""
    container = substrate.container
    size = announced_size(container.exif)
    actual = (substrate.width_px, substrate.height_px)
    delay = capture_delay_s(container.exif)
    xmp, _ = read_xmp_safely(container.xmp)
    editors = (rule for rule in packaged_rules() if rule.kind == "editor")
    jpeg = substrate.jpeg
    return Traces(
        # cameras round the announced size to their blocks: up to 8 px are no difference
        size_differs=size is not None and not any(_close(size, s) for s in (actual, actual[::-1])),
        editor_named=bool(match_rules(editors, metadata_fields(container, xmp))),
        later_time=delay is not None and delay > _MAX_SAVING_S,
        editor_segments=structure is not None and any(structure.index(s) >= 0 for s in _PHOTOSHOP_SEGMENTS),
        program_encoder=structure is not None and structure.jfif_first and jpeg is not None and jpeg.standard_tables,
    )


def _close(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return all(abs(p - q) <= 8 for p, q in zip(a, b, strict=True))


def classify(traces: Traces, thumbnail: Comparison | None) -> str:
    """The variant of the explanation, one of `SCORES`, strongest first."""
    if thumbnail is not None and thumbnail.locally_changed:
        return "thumbnail_content_differs"
    if thumbnail is not None and not thumbnail.same_scene:
        cropped = thumbnail.crop_correlation >= CROP_CORRELATION
        return "thumbnail_shows_more" if cropped else "thumbnail_of_other_picture"
    if thumbnail is not None and thumbnail.mirrored:
        return "thumbnail_mirrored"
    if traces.size_differs:
        return "size_differs"
    if traces.resaved:
        return "resaved"
    return "consistent_with_thumbnail" if thumbnail is not None else "consistent"


def run(substrate: Substrate) -> Observation:
    """Checks whether camera metadata fit the file.

    A thumbnail that differs in a part of the scene is strong evidence that content was changed after capture. Other
    differences tell of cropping, resizing or saving again, which is no manipulation. Agreement is weak evidence for a
    camera's file, because metadata can be copied. Missing camera metadata say nothing at all. Cost: one reduction of
    the luminance.
    """
    container = substrate.container
    if not (container.exif.get("Make") or container.exif.get("Model")):
        return not_applicable(
            "no_camera_metadata", "the file names no camera, which most published pictures do not, and proves nothing"
        )
    structure = read_structure(substrate.data) if container.format == "JPEG" else None
    small = substrate.codecs.thumbnail(container.thumbnail)
    thumbnail = compare(small.astype(np.float32), substrate.luma.cpu().numpy()) if small is not None else None
    traces = find_traces(substrate, structure)
    variant = classify(traces, thumbnail)
    changed = thumbnail.changed if thumbnail is not None and variant == "thumbnail_content_differs" else None
    return Observation(
        Outcome.TESTED,
        score=SCORES[variant],
        score_meaning="contradiction between camera metadata and file: 3 = thumbnail shows other content, 2 = another "
        "picture, 1 = another framing or size, 0.5 = saved again, 0 = none",
        detected=variant in _DETECTED,
        explanation_key=f"{_ID}.{variant}",
        measurements=_measurements(traces, thumbnail, structure),
        regions=_regions(changed, substrate) if changed is not None else (),
        details=_details(container, structure),
    )


def _measurements(
    traces: Traces, thumbnail: Comparison | None, structure: JpegStructure | None
) -> tuple[Measurement, ...]:
    flags = ("size_differs", "editor_named", "later_time", "editor_segments", "program_encoder")
    found = [Measurement(name, float(getattr(traces, name)), "1") for name in flags]
    if structure is not None:
        found.append(Measurement("trailing_bytes", float(structure.trailing_bytes), "byte"))
    if thumbnail is not None:
        found += [
            Measurement("thumbnail_correlation", thumbnail.correlation, "1"),
            Measurement("thumbnail_changed_share", thumbnail.changed_share, "1"),
            Measurement("thumbnail_largest_difference", thumbnail.largest_difference, "1"),
            Measurement("thumbnail_crop_correlation", thumbnail.crop_correlation, "1"),
        ]
    return tuple(found)


def _details(container: Container, structure: JpegStructure | None) -> dict[str, str]:
    names = ("Make", "Model", "Software", "DateTime", "DateTimeOriginal")
    details = {name: container.exif[name] for name in names if container.exif.get(name)}
    size = announced_size(container.exif)
    if size:
        details["announced_size"] = f"{size[0]} x {size[1]}"
    if structure is not None:
        details["segments"] = " ".join(s.identifier or f"{s.marker:02X}" for s in structure.segments)
    return {name: value[:DETAIL_LIMIT] for name, value in details.items()}


def _regions(changed: npt.NDArray[np.bool_], substrate: Substrate) -> tuple[Region, ...]:
    """The bounding box of what differs, in picture pixels."""
    rows, columns = np.nonzero(changed)
    scale_y, scale_x = substrate.height_px / changed.shape[0], substrate.width_px / changed.shape[1]
    x, y = math.floor(columns.min() * scale_x), math.floor(rows.min() * scale_y)
    right, bottom = math.ceil((columns.max() + 1) * scale_x), math.ceil((rows.max() + 1) * scale_y)
    return (Region(x, y, min(right, substrate.width_px) - x, min(bottom, substrate.height_px) - y),)


TEST: Final = Test(
    id=_ID,
    description="Checks camera metadata against the file: size, thumbnail, times, order of segments, tables.",
    source="EXIF 2.32; Kee, Johnson, Farid: IEEE TIFS 2011 (thumbnails and headers); own comparison",
    run=run,
)
