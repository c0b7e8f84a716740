"""The output folder: per picture a JSON report, heat maps and an HTML page, and an index over all."""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from coordinator.cli.sources import Source
from coordinator.render.document import error_document, heat_maps, report_document, to_json
from coordinator.render.html import IndexEntry, render_index, render_report
from coordinator.render.labels import Labels
from coordinator.render.picture import load_preview
from coordinator.render.schema import ErrorDocument, ReportDocument
from maifs.coordinator.v1 import report_pb2
from serving.errors import MaifsError, Reason

INDEX_NAME = "index.html"
_PART = ".maifs-{}.part"
_LONGEST_STEM = 60


class OutputFolder:
    """Writes the files of a run; each appears complete or not at all.

    Names are made of the picture's name and the beginning of its digest, so that the same pictures give the same
    names in every run. What is there already and complete is left as it is.
    """

    def __init__(self, folder: Path, t: Labels, sources: Sequence[Source] = ()) -> None:
        """Makes the folder, and removes what a run that was killed left half-written.

        Args:
            folder: may exist.
            t: words.
            sources: all pictures of the run; none of them takes another's name of an earlier run.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        self.folder, self._t = folder, t
        self._names: set[str] = set()
        self._entries: dict[int, IndexEntry] = {}
        self._kept: dict[int, tuple[ReportDocument, Source, report_pb2.Report]] = {}
        self._paths = {source.display for source in sources}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(_PART.format("*")):
                leftover.unlink()
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritable(folder, error) from error

    def write_report(self, index: int, source: Source, report: report_pb2.Report) -> ReportDocument:
        """Writes all files of one report; returns its JSON form with the files' names.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        stem = self._unique(f"{_slug(source.path.stem)}-{report.image.sha256.hex()[:10]}", source)
        maps = heat_maps(report)
        map_files = {key: f"{stem}.{_slug(key)}.png" for key in maps}
        document = report_document(report, source.display, map_files=map_files, html_file=f"{stem}.html")
        text = (to_json(document, indent=1) + "\n").encode()
        if self._is_complete(stem, text, map_files.values()):
            self._kept[index] = (document, source, report)
            return document
        preview = load_preview(source.path, report.image)
        try:
            for key, name in map_files.items():
                self._write(name, maps[key].png)
            page = render_report(document, preview, maps, self._t)
            self._write(f"{stem}.html", page.encode("utf-8", errors="replace"))
            self._write(f"{stem}.json", text)  # last: it says that the others are there
            self._forget_failure(source)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._entries[index] = IndexEntry.of(document, preview.thumbnail if preview else b"", self._t)
        return document

    def write_error(self, index: int, source: Source, error: MaifsError) -> ErrorDocument:
        """Writes the JSON form of a failure.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        document = error_document(error, source.display)
        self._entries[index] = IndexEntry.of(document, b"", self._t)
        name = self._unique(_failure_stem(source), source)
        try:
            self._write(f"{name}.json", (to_json(document, indent=1) + "\n").encode())
        except OSError as fault:
            raise _unwritable(self.folder, fault) from fault
        return document

    def write_index(self) -> Path | None:
        """Writes the index over several pictures; None when there is only one. Where nothing is new it stays.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        if len(self._entries) + len(self._kept) < 2:
            return None
        if not self._entries and (self.folder / INDEX_NAME).exists():
            return self.folder / INDEX_NAME
        for index, (document, source, report) in self._kept.items():
            preview = load_preview(source.path, report.image)
            self._entries[index] = IndexEntry.of(document, preview.thumbnail if preview else b"", self._t)
        entries = [self._entries[index] for index in sorted(self._entries)]
        try:
            self._write(INDEX_NAME, render_index(entries, self._t).encode("utf-8", errors="replace"))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return self.folder / INDEX_NAME

    def _unique(self, stem: str, source: Source) -> str:
        """A name of this picture's own: the one that it had in an earlier run, where it had one."""
        name, number = stem, 2
        while name in self._names or self._path_in(name) in self._paths - {source.display}:
            name, number = f"{stem}-{number}", number + 1
        self._names.add(name)
        return name

    def _path_in(self, name: str) -> str | None:
        """The picture that a file of this name is about; None when there is none that can be read."""
        try:
            path = json.loads((self.folder / f"{name}.json").read_bytes())["path"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return path if isinstance(path, str) else None

    def _is_complete(self, stem: str, text: bytes, map_files: Iterable[str]) -> bool:
        names = (f"{stem}.html", *map_files)
        try:
            same = (self.folder / f"{stem}.json").read_bytes() == text
        except OSError:
            return False
        return same and all((self.folder / name).exists() for name in names)

    def _forget_failure(self, source: Source) -> None:
        """Removes what an earlier run wrote when it failed on this picture."""
        stem = _failure_stem(source)
        if self._path_in(stem) == source.display:
            (self.folder / f"{stem}.json").unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.folder / _PART.format(os.getpid())
        try:
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _failure_stem(source: Source) -> str:
    return f"{_slug(source.path.stem)}-failed"


def _slug(text: str) -> str:
    """A file name without anything that a shell, a browser or a file system could take for more than a letter."""
    cleaned = re.sub(r"[^\w.-]+", "-", text, flags=re.UNICODE).strip("-.")
    cleaned = "".join(c for c in cleaned if c.isprintable())
    return cleaned.encode()[:_LONGEST_STEM].decode(errors="ignore") or "picture"


def _unwritable(folder: Path, error: OSError) -> MaifsError:
    return MaifsError(
        Reason.OUTPUT_UNWRITABLE,
        f"{str(folder)!r} cannot be written: {error.strerror or error}.",
        "Choose another folder with --out, or make room or rights for this one.",
    )
