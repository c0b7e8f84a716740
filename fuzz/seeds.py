"""Well-formed inputs for each target, and malformed picture files, all made by code."""

from __future__ import annotations

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np
import pillow_heif
from PIL import Image

from maifs.common.v1 import image_pb2
from maifs.vision.v1 import vision_pb2

pillow_heif.register_heif_opener()

_XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="a"><xmp:Label>b</xmp:Label>'
    b'<Iptc4xmpExt:DigitalSourceType xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    b'rdf:resource="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    b"</rdf:Description></rdf:RDF></x:xmpmeta>"
)
_ENTITIES = b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd"><!ENTITY c "&b;&b;">]><a>&c;</a>'
_SIDECAR = (
    b'name = "a"\nversion = "1.0.0"\ntool = "noise"\ndescription = "d"\nsource = "s"\n[weights]\n'
    b'format = "onnx"\nfile = "../../a.onnx"\nsha256 = "00"\n[input]\ntile_px = 64\nrange = [0, 1]\n'
    b'[output]\nkind = "score"\nmeaning = "m"\nmap_range = [0, 1]\n'
)


def _saved(file_format: str, **options: object) -> bytes:
    rows, columns = np.mgrid[0:24, 0:32]
    rgb = np.stack([rows * 8, columns * 6, (rows * columns) % 256], axis=2).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, file_format, **options)
    return buffer.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Maker", "Editor 1.0"
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0hello"
    exif.get_ifd(0x8825)[1] = "N"
    return exif.tobytes()


@cache
def pictures() -> tuple[bytes, ...]:
    """Small sound files of every format."""
    exif = _exif()
    return (
        _saved("JPEG", exif=exif, comment=b"c"), _saved("JPEG", progressive=True), _saved("PNG", exif=exif),
        _saved("WEBP", exif=exif, xmp=_XMP), _saved("TIFF", compression="tiff_lzw"), _saved("GIF"), _saved("BMP"),
        _saved("AVIF"), _saved("HEIF"),
    )  # fmt: skip


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, *chunks: bytes) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + _chunk(b"IEND", b"")


def _endless_tiff() -> bytes:
    """Its directory is its own successor."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 3, 1, 1) + struct.pack("<I", 8)


def malformed(seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Files that lie, end early, or were damaged: a name and the bytes of each."""
    bomb = zlib.compress(b"\0" * (64 << 20), 9)
    yield "empty", b""
    yield "bomb of pixels", _png(40_000, 40_000, _chunk(b"IDAT", bomb))
    yield "bomb of text", _png(8, 8, _chunk(b"zTXt", b"k\0\0" + bomb), _chunk(b"IDAT", zlib.compress(b"\0" * 200)))
    yield "bomb of a profile", _png(8, 8, _chunk(b"iCCP", b"k\0\0" + bomb), _chunk(b"IDAT", zlib.compress(b"\0" * 200)))
    yield "no pixels", _png(8, 8)
    yield "zero size", _png(0, 8, _chunk(b"IDAT", b""))
    yield "endless TIFF", _endless_tiff()
    yield "JPEG without frames", b"\xff\xd8" + b"\xff" * 4000 + b"\xff\xd9"
    generator = random.Random(seed)
    for index, data in enumerate(pictures()):
        for cut in (len(data) // 4, len(data) // 2, len(data) - 3):
            yield f"format {index} cut at {cut}", data[:cut]
        for turn in range(6):
            yield f"format {index} damaged {turn}", damaged(data, generator)


def damaged(data: bytes, generator: random.Random) -> bytes:
    """A copy with a few bytes changed, doubled or taken out."""
    changed = bytearray(data or b"\0")
    for _ in range(generator.randint(1, 8)):
        at = generator.randrange(len(changed))
        kind = generator.randrange(4)
        if kind == 0:
            changed[at] = generator.choice((0, 1, 0x7F, 0x80, 0xFF, generator.randrange(256)))
        elif kind == 1:
            changed[at:at] = changed[at : at + generator.randint(1, 32)]
        elif kind == 2 and len(changed) > 8:
            del changed[at : at + generator.randint(1, 8)]
        else:
            changed[at : at + 4] = generator.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff"))
    return bytes(changed)


def _stream() -> bytes:
    step = vision_pb2.AnalyzeStreamRequest
    steps = [
        step(item_id="a", begin=image_pb2.BeginItem(size_bytes=4, data=b"ab")),
        step(item_id="a", chunk=image_pb2.ItemChunk(offset_bytes=2, data=b"cd")),
        step(item_id="b", begin=image_pb2.BeginItem(size_bytes=1, data=b"x")),
        step(item_id="a", end=image_pb2.EndItem()),
        step(item_id="b", cancel=image_pb2.CancelItem()),
    ]
    bodies = [message.SerializeToString() for message in steps]
    return b"".join(bytes([len(body)]) + body for body in bodies)


@cache
def _manifest() -> bytes:
    source_type = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
    action = {"action": "c2pa.created", "digitalSourceType": source_type}
    manifest = {
        "claim_generator_info": [{"name": "g", "version": "1"}],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [action]}}],
        "ingredients": [{"relationship": "parentOf", "active_manifest": "b"}],
        "signature_info": {"issuer": "i", "common_name": "c", "time": "2026-01-01"},
    }
    results = {"activeManifest": {"failure": [{"code": "assertion.dataHash.mismatch"}], "success": []}}
    document = {"active_manifest": "a", "manifests": {"a": manifest, "b": manifest}, "validation_results": results}
    return json.dumps(document).encode()


def seeds(target: str) -> tuple[bytes, ...]:
    """Inputs to begin with."""
    box = b"\0\0\0\x28jumb\0\0\0\x20jumdc2pa\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0"
    known: dict[str, tuple[bytes, ...]] = {
        "xmp": (_XMP, _ENTITIES),
        "metadata_text": (b"ASCII\0\0\0hello", b"UNICODE\0h\0i\0", b"UNICODE\0" + "hé".encode("utf-16-be")),
        "exif": (_exif().removeprefix(b"Exif\0\0"), _endless_tiff()),
        "iptc": (b"\x1c\x02\x05\0\x03abc\x1c\x02\x6e\0\x01x",),
        "manifest_document": (_manifest(), b"{}", b"[]", b"null"),
        "c2pa_boxes": (box,),
        "messages": (_stream()[1:], b"\x0a\x02\xff\xfe"),
        "item_stream": (_stream(),),
        "sidecar": (_SIDECAR, b'{"name": "a"}'),
        "configuration": (b'[vision]\nworkers = 2\n[vision.limits]\nmax_pixels = 5\ndevice = "cpu"\n',),
        "model_answer": (b'{"claims": [{"text": "a", "findings": ["noise.prnu"]}]}', b'{"summary": "x", "claims": [{'),
        "stored_messages": (b"\x08\x01\x12\x02en", _stream()[1:]),
    }
    return known.get(target) or pictures()
