"""What is fuzzed: each target takes any bytes and raises nothing but what it documents."""

from __future__ import annotations

import asyncio
import contextlib
import io
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError
from google.rpc import status_pb2
from PIL import Image, TiffImagePlugin

from coordinator.explanation.answer import parse_answer
from maifs.coordinator.v1 import batch_pb2, coordinator_pb2, report_pb2
from maifs.vision.v1 import vision_pb2
from serving.config import load_config
from serving.errors import MaifsError
from serving.item_stream import ByteBudget, Item, ItemHandlers, ItemLimits, ItemStream
from serving.wire import unreadable
from vision_service import metadata
from vision_service.config import VisionConfig
from vision_service.decoding.credentials import UnreadableCredentialsError, read_document
from vision_service.decoding.pictures import decode_picture
from vision_service.learned.card import read_card
from vision_service.limits import DecodeLimits
from vision_service.tools.watermark.c2pa_manifest import read_manifest_store
from vision_service.tools.watermark.jpeg_structure import read_structure
from vision_service.tools.watermark.metadata_source import declarations
from vision_service.tools.watermark.signatures import metadata_fields
from vision_service.tools.watermark.xmp import XmpError, parse_xmp

SMALL = DecodeLimits(max_image_bytes=1 << 20, max_pixels=1 << 16, max_side_px=1024)
_SCRATCH = Path(tempfile.gettempdir())
_Event = tuple[str, str]


def jpeg_structure(data: bytes) -> None:
    """Segments of a JPEG file."""
    structure = read_structure(data)
    if structure is not None:
        assert 0 <= structure.trailing_bytes <= len(data)
        assert all(0 < segment.offset < len(data) for segment in structure.segments)


def xmp(data: bytes) -> None:
    """XMP packets, and the declarations in them."""
    with contextlib.suppress(XmpError):
        found = parse_xmp(data)
        fields = {name: found.joined(name) for name in found.properties}
        declarations(fields)


def metadata_text(data: bytes) -> None:
    """EXIF strings and user comments."""
    assert len(metadata.as_text(data)) <= metadata.TEXT_LIMIT
    assert "\n" not in metadata.as_text(data)
    metadata.decode_bytes(data)


def exif(data: bytes) -> None:
    """EXIF blocks: all directories, the thumbnail, the user comment."""
    image = Image.new("RGB", (1, 1))
    image.info["exif"] = b"Exif\0\0" + data
    metadata.read_exif(image)
    metadata.read_user_comment(image)
    thumbnail = metadata.read_thumbnail(image)
    assert thumbnail == b"" or thumbnail[:2] == b"\xff\xd8"


def iptc(data: bytes) -> None:
    """IPTC-IIM records within TIFF tags."""
    image = TiffImagePlugin.TiffImageFile.__new__(TiffImagePlugin.TiffImageFile)
    image.tag_v2 = TiffImagePlugin.ImageFileDirectory_v2()
    image.tag_v2[TiffImagePlugin.IPTC_NAA_CHUNK] = data
    image.info = {"icc_profile": data}
    metadata.read_iptc(image)


def picture(data: bytes) -> None:
    """Whole files: container, metadata, pixels."""
    with contextlib.suppress(MaifsError):
        container, strips = decode_picture(io.BytesIO(data), SMALL)
        assert sum(len(strip) for strip in strips) == container.height_px
        with contextlib.suppress(XmpError):
            metadata_fields(container, parse_xmp(container.xmp))


class _Document:
    """Codecs whose manifest store is what the fuzzer says."""

    def __init__(self, text: str) -> None:
        self._text = text

    def credentials(self, container_format: str, trust_anchors_pem: str) -> str:
        """See Codecs."""
        return self._text

    def coefficients(self) -> None:
        """See Codecs."""

    def thumbnail(self, data: bytes) -> None:
        """See Codecs."""


def manifest_document(data: bytes) -> None:
    """What the C2PA library could say of a manifest store."""
    with contextlib.suppress(UnreadableCredentialsError):
        store = read_manifest_store(_Document(data.decode("utf-8", errors="replace")), "JPEG")
        assert store is not None
        assert store.changed in {True, False}


def c2pa_boxes(data: bytes) -> None:
    """A JUMBF box in the APP11 segment of a JPEG file, through the C2PA library."""
    body = b"JP\0\1\0\0\0\1" + data[:65_000]
    segment = b"\xff\xeb" + (len(body) + 2).to_bytes(2, "big") + body
    with contextlib.suppress(UnreadableCredentialsError):
        read_document(io.BytesIO(b"\xff\xd8" + segment + b"\xff\xd9"), "JPEG", "")


def messages(data: bytes) -> None:
    """Requests that may not be parseable."""
    for kind in (vision_pb2.AnalyzeStreamRequest, coordinator_pb2.AnalyzeStreamRequest):
        try:
            kind.FromString(data)
        except DecodeError:
            unreadable(kind, data)


def split_messages(data: bytes) -> list[vision_pb2.AnalyzeStreamRequest]:
    """Messages from bytes: each a length of one byte and a body; those that do not parse are left out."""
    found: list[vision_pb2.AnalyzeStreamRequest] = []
    while data and len(found) < 64:
        body, data = data[1 : 1 + data[0]], data[1 + data[0] :]
        with contextlib.suppress(DecodeError):
            found.append(vision_pb2.AnalyzeStreamRequest.FromString(body))
    return found


_LOOP = asyncio.new_event_loop()


def item_stream(data: bytes) -> None:
    """Any sequence of messages on one stream: every accepted item has exactly one terminal event, nothing is kept."""
    _LOOP.run_until_complete(_converse(split_messages(data)))


async def _converse(requests: list[vision_pb2.AnalyzeStreamRequest]) -> None:
    async def sending() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    async def process(item: Item) -> AsyncGenerator[_Event, None]:
        yield item.item_id, "finding"
        yield item.item_id, "result"

    handlers: ItemHandlers[_Event] = ItemHandlers(
        accepted=lambda item_id, _: (item_id, "accepted"),
        failed=lambda item_id, _: (item_id, "error"),
        process=process,
        is_terminal=lambda event: event[1] == "result",
        queue_position=lambda: 0,
    )
    budget = ByteBudget(256)
    events = [event async for event in ItemStream(ItemLimits(64, 3), budget, handlers).run(sending())]
    assert budget.held_bytes == 0
    check_endings(events, Counter(request.item_id for request in requests))


def check_endings(events: list[_Event], messages_sent: Counter[str]) -> None:
    """Each accepted item ends once, and what is refused is refused once for each message at most."""
    kinds = Counter(events)
    for item_id in {name for name, _ in events}:
        accepted, results, errors = (kinds[item_id, kind] for kind in ("accepted", "result", "error"))
        assert accepted <= 1, (item_id, events)
        assert results <= accepted, (item_id, events)
        assert accepted <= results + errors <= accepted + messages_sent[item_id], (item_id, events)


def sidecar(data: bytes) -> None:
    """Sidecars of plug-ins, TOML and JSON."""
    for suffix in (".toml", ".json"):
        path = _SCRATCH / f"maifs-fuzz-sidecar{suffix}"
        path.write_bytes(data)
        card, faults = read_card(path)
        assert (card is None) == bool(faults)
        if card is not None:
            assert card.weights.path.parent == path.parent


def configuration(data: bytes) -> None:
    """Configuration files."""
    path = _SCRATCH / "maifs-fuzz-config.toml"
    path.write_bytes(data)
    with contextlib.suppress(MaifsError):
        load_config(VisionConfig, "vision", path=path, environ={})


def model_answer(data: bytes) -> None:
    """What a language model says."""
    with contextlib.suppress(MaifsError):
        parse_answer(data.decode("utf-8", errors="replace"))


def stored_messages(data: bytes) -> None:
    """Serialised options and reports, as journal and cache keep them."""
    for kind in (batch_pb2.BatchOptions, report_pb2.Report, status_pb2.Status):
        with contextlib.suppress(DecodeError):
            kind.FromString(data).SerializeToString()


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        jpeg_structure, xmp, metadata_text, exif, iptc, picture, manifest_document, c2pa_boxes, messages, item_stream,
        sidecar, configuration, model_answer, stored_messages,
    )
}  # fmt: skip
"""By name."""
