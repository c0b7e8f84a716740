"""Which files to analyse: arguments, folders and patterns to a list without doubles."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from coordinator.client.pictures import FilePicture
from serving.errors import MaifsError, Reason

IMAGE_EXTENSIONS = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jfif",
        ".jpe",
        ".png",
        ".webp",
        ".tif",
        ".tiff",
        ".gif",
        ".bmp",
        ".avif",
        ".heic",
        ".heif",
        ".mpo",
    )
)
"""Extensions that are taken from folders, in lower case. A file that is named itself is always taken."""


@dataclass(frozen=True)
class Source:
    """One file to analyse."""

    path: Path
    display: str
    """The path as the user would write it."""
    fault: str = ""
    """Why it cannot be analysed, known before it is opened; empty otherwise."""

    @property
    def picture(self) -> FilePicture:
        """The file to send."""
        return FilePicture(self.path, self.fault)


@dataclass
class Collection:
    """What the arguments came to."""

    sources: list[Source] = field(default_factory=list)
    skipped_count: int = 0
    """Files in folders that were left out because their extension is not an image's, or because they are hidden."""


def collect(arguments: Sequence[str]) -> Collection:
    """Expands files, folders (recursively, in sorted order) and patterns ("**" included).

    An existing file or folder is taken literally even when its name looks like a pattern.

    Raises:
        MaifsError: NO_IMAGES when nothing is left, with what was looked at.
    """
    found = Collection()
    seen: set[str] = set()
    for argument in arguments:
        for source in _expand(argument, found):
            key = os.path.realpath(source.path)
            if key not in seen:
                seen.add(key)
                found.sources.append(source)
    if all(source.fault for source in found.sources):
        raise _nothing(arguments, found)
    return found


def _nothing(arguments: Sequence[str], found: Collection) -> MaifsError:
    reasons = [f"{source.display}: {source.fault}" for source in found.sources]
    if found.skipped_count:
        reasons.append(f"{found.skipped_count} file(s) in folders have no image extension or are hidden")
    listed = "".join(f"\n  - {reason}" for reason in reasons)
    return MaifsError(
        Reason.NO_IMAGES,
        f"No images in {', '.join(map(repr, arguments))}.{listed}",
        f"\nName image files, or folders with files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}. "
        "A file that is named itself is analysed whatever its extension.",
    )


def _expand(argument: str, found: Collection) -> Iterator[Source]:
    path = Path(argument)
    if path.is_dir():
        yield from _walk(path, found)
    elif os.path.lexists(path):
        yield Source(path, argument)
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - the pattern may be absolute
        files = [match for match in matches if not Path(match).is_dir()]
        if not files:
            yield Source(path, argument, "no file matches the pattern")
        for match in files:
            yield Source(Path(match), match)
    else:
        yield Source(path, argument, "no such file or folder")


def _walk(folder: Path, found: Collection) -> Iterator[Source]:
    faults: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=faults.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith(".") or Path(name).suffix.lower() not in IMAGE_EXTENSIONS:
                found.skipped_count += 1
            else:
                path = Path(parent, name)
                yield Source(path, str(path))
    for fault in faults:
        name = str(fault.filename)
        yield Source(Path(name), name, f"the folder cannot be read: {fault.strerror}")
