"""`coordinator-cli report`: a report that exists already, in another form."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from rich.console import Console

from coordinator.cli.journal import all_items, find_batch, open_journal
from coordinator.cli.terminal import PIPE_WIDTH
from coordinator.client.batch_submit import item_name
from coordinator.client.pictures import FilePicture
from coordinator.render.document import heat_maps, report_document, to_json
from coordinator.render.html import render_report
from coordinator.render.labels import Labels
from coordinator.render.picture import load_preview
from coordinator.render.schema import SCHEMA_VERSION, ReportDocument
from coordinator.render.text import report_text
from maifs.common.v1 import finding_pb2, image_pb2
from maifs.coordinator.v1 import batch_pb2
from serving.errors import MaifsError, Reason
from serving.status import from_status

Form = Literal["text", "json", "html"]
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, eq=False)
class StoredReport:
    """A report, and what its page shows beside it."""

    document: ReportDocument
    maps: dict[str, finding_pb2.HeatMap] = field(default_factory=dict)

    def to_html(self, t: Labels) -> str:
        """The page, with the picture where the file is still there and unchanged."""
        image = self.document["image"]
        info = image_pb2.ImageInfo(sha256=bytes.fromhex(image["sha256"]), size_bytes=image["size_bytes"])
        return render_report(self.document, load_preview(Path(self.document["path"]), info), self.maps, t)


@dataclass(frozen=True)
class Wanted:
    """What the arguments name."""

    what: str
    """A JSON report; a picture, or the SHA-256 of one, in hexadecimal; with `item` a batch."""
    item: str | None
    """Position or path of a picture of the batch."""
    address: str | None
    """The coordinator whose journal is asked."""
    folder: Path | None = None
    """Folder of reports whose journal is read instead."""


async def show(wanted: Wanted, form: Form, lang: str, out: Path | None) -> None:
    """Prints a report, or writes it to a file that appears complete or not at all.

    Raises:
        MaifsError: as find_report; OUTPUT_UNWRITABLE.
    """
    found, labels = await find_report(wanted), Labels(lang)
    if form == "text":
        width = None if out is None and sys.stdout.isatty() else PIPE_WIDTH
        console = Console(highlight=False, width=width, file=sys.stdout if out is None else io.StringIO())
        console.print(report_text(found.document, labels))
        text = console.file.getvalue() if isinstance(console.file, io.StringIO) else ""
    else:
        text = (found.to_html(labels) if form == "html" else to_json(found.document, indent=1)) + "\n"
    if out is None:
        sys.stdout.write(text)
    else:
        _write(text, out)


async def find_report(wanted: Wanted) -> StoredReport:
    """The report that the arguments name.

    Raises:
        MaifsError: UNKNOWN_BATCH, UNKNOWN_REPORT, FILE_UNREADABLE; the item's own error when it has no report.
    """
    what = wanted.what
    if wanted.item is not None:
        return await _of_batch(wanted, wanted.item)
    if _SHA256.fullmatch(what):
        return await _of_content(wanted, bytes.fromhex(what), None)
    path = Path(what)
    try:
        if path.suffix.lower() == ".json":
            return await asyncio.to_thread(_of_file, path)
        digest = await asyncio.to_thread(_digest, path)
    except OSError as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE,
            f"{what!r} cannot be read: {error.strerror}.",
            "Name a JSON report, a picture, the SHA-256 of one, or a batch and one of its items.",
        ) from error
    return await _of_content(wanted, digest, str(path))


def _digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def _of_file(path: Path) -> StoredReport:
    try:
        document: Any = json.loads(path.read_bytes())
        if document["schema_version"].split(".")[0] != SCHEMA_VERSION.split(".")[0] or document["status"] != "ok":
            raise ValueError
        report = cast("ReportDocument", document)
        maps = {key: _heat_map(path.parent, about) for key, about in _map_entries(report).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MaifsError(
            Reason.INVALID_REQUEST, f"{str(path)!r} is no report that `analyze --out` wrote by this version."
        ) from error
    return StoredReport(report, {key: heat_map for key, heat_map in maps.items() if heat_map.png})


def _map_entries(document: ReportDocument) -> dict[str, Any]:
    found = {"fused": document["fused_heat_map"]}
    found |= {finding["id"]: finding["heat_map"] for tool in document["tools"] for finding in tool["findings"]}
    return {key: about for key, about in found.items() if about is not None and about["file"]}


def _heat_map(folder: Path, about: Any) -> finding_pb2.HeatMap:
    """The map of a report, from the file beside it; without pixels where that is gone."""
    heat_map = finding_pb2.HeatMap(cell_px=about["cell_px"], meaning=about["meaning"], significant=about["significant"])
    file = folder / Path(about["file"]).name
    if file.is_file():
        heat_map.png = file.read_bytes()
    return heat_map


async def _of_batch(wanted: Wanted, item: str) -> StoredReport:
    async with open_journal(wanted.address, wanted.folder) as journal:
        batch = await find_batch(journal, wanted.what)
        position = int(item) if item.isascii() and item.isdigit() else 0
        if not position:
            names = {found.name: found.position async for found in all_items(journal, batch.batch_id)}
            position = names.get(item) or names.get(item_name(FilePicture(Path(item)))) or 0
        if not position:
            raise MaifsError(
                Reason.UNKNOWN_REPORT,
                f"The batch {batch.batch_id!r} has no item {item!r}.",
                f"`coordinator-cli batch show {batch.batch_id}` lists its items.",
            )
        request = batch_pb2.GetReportRequest(batch_id=batch.batch_id, position=position)
        return _stored(await journal.get_report(request), None)


async def _of_content(wanted: Wanted, sha256: bytes, path: str | None) -> StoredReport:
    async with open_journal(wanted.address, wanted.folder) as journal:
        return _stored(await journal.get_report(batch_pb2.GetReportRequest(sha256=sha256)), path)


def _stored(response: batch_pb2.GetReportResponse, path: str | None) -> StoredReport:
    if response.HasField("report"):
        document = report_document(response.report, path or response.item.name)
        return StoredReport(document, dict(heat_maps(response.report)))
    if response.item.HasField("error"):
        raise from_status(response.item.error)
    raise MaifsError(Reason.UNKNOWN_REPORT, "There is no report yet.", "`coordinator-cli batch watch` waits for it.")


def _write(text: str, out: Path) -> None:
    temporary = out.with_name(f".{out.name}.part")
    try:
        temporary.write_text(text, "utf-8", errors="replace")
        temporary.replace(out)
    except OSError as error:
        raise MaifsError(Reason.OUTPUT_UNWRITABLE, f"{str(out)!r} cannot be written: {error.strerror}.") from error
