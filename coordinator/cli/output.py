"""The output folder: per picture a JSON report, heat maps and an HTML page, and an index over all."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
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
_LONGEST_STEM = 60


class OutputFolder:
    """Writes the files of a run; each appears complete or not at all.

    Names are made of the picture's name and the beginning of its digest, so that the same pictures give the same
    names in every run.
    """

    def __init__(self, folder: Path, t: Labels) -> None:
        """Makes the folder.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        self.folder, self._t = folder, t
        self._names: set[str] = set()
        self._entries: dict[int, IndexEntry] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _unwritable(folder, error) from error

    def write_report(self, index: int, source: Source, report: report_pb2.Report) -> ReportDocument:
        """Writes all files of one report; returns its JSON form with the files' names.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        stem = self._unique(f"{_slug(source.path.stem)}-{report.image.sha256.hex()[:10]}")
        maps = heat_maps(report)
        map_files = {key: f"{stem}.{_slug(key)}.png" for key in maps}
        document = report_document(report, source.display, map_files=map_files, html_file=f"{stem}.html")
        preview = load_preview(source.path, report.image)
        try:
            for key, name in map_files.items():
                self._write(name, maps[key].png)
            self._write(f"{stem}.json", (to_json(document, indent=1) + "\n").encode())
            page = render_report(document, preview, maps, self._t)
            self._write(f"{stem}.html", page.encode("utf-8", errors="replace"))
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
        name = self._unique(f"{_slug(source.path.stem)}-failed")
        try:
            self._write(f"{name}.json", (to_json(document, indent=1) + "\n").encode())
        except OSError as fault:
            raise _unwritable(self.folder, fault) from fault
        return document

    def write_index(self) -> Path | None:
        """Writes the index over several pictures; None when there is only one.

        Raises:
            MaifsError: OUTPUT_UNWRITABLE.
        """
        if len(self._entries) < 2:
            return None
        entries = [self._entries[index] for index in sorted(self._entries)]
        try:
            self._write(INDEX_NAME, render_index(entries, self._t).encode("utf-8", errors="replace"))
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        return self.folder / INDEX_NAME

    def _unique(self, stem: str) -> str:
        name, number = stem, 2
        while name in self._names:
            name, number = f"{stem}-{number}", number + 1
        self._names.add(name)
        return name

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.folder / f".{os.getpid()}.part"
        try:
            temporary.write_bytes(data)
            temporary.replace(self.folder / name)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


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
