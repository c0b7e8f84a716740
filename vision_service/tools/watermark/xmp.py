"""XMP packets as flat properties, parsed without entities, external references or unbounded nesting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final
from xml.parsers import expat

MAX_ELEMENTS: Final = 50_000
MAX_DEPTH: Final = 64
VALUE_LIMIT: Final = 65_536
"""Longest value in characters; the rest is cut."""

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_PREFIXES: Final = {
    "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt",
    "http://ns.adobe.com/xap/1.0/sType/ResourceRef#": "stRef",
    "http://purl.org/dc/elements/1.1/": "dc",
    "http://purl.org/dc/terms/": "dcterms",
    "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/camera-raw-settings/1.0/": "crs",
    "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/exif/1.0/": "exif",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt",
    "http://ns.google.com/photos/1.0/camera/": "GCamera",
    "http://www.tc260.org.cn/ns/AIGC/1.0/": "TC260",
    "http://www.tc260.org.cn/ns/AIGC/1.0": "TC260",
    "http://cvdca.org.cn/ns/aigc/1.0/": "aigc",
    "http://www.gimp.org/xmp/": "GIMP",
}
_SEPARATOR: Final = "\x1f"


class XmpError(ValueError):
    """The packet is not XMP that is safe to read."""


@dataclass(frozen=True)
class Xmp:
    """All properties of a packet, flat: structures and lists are opened up, order is that of the file."""

    properties: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    """Values by qualified name with the usual prefix ("xmp:CreatorTool", "stEvt:softwareAgent"); names of unknown
    namespaces are "{uri}name"."""

    def first(self, name: str) -> str:
        """First value of a property; empty when it is absent."""
        return self.properties.get(name, ("",))[0]

    def joined(self, name: str) -> str:
        """All values of a property, one a line."""
        return "\n".join(self.properties.get(name, ()))


class _Collector:
    """Expat handlers that flatten RDF: text belongs to the nearest enclosing element that is not of RDF itself."""

    def __init__(self) -> None:
        self.found: dict[str, list[str]] = {}
        self._names: list[str] = []
        self._text: list[str] = []
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._names) >= MAX_DEPTH:
            raise XmpError(f"more than {MAX_ELEMENTS} elements or {MAX_DEPTH} levels")
        self._names.append(name)
        self._text = []
        for key, value in attributes.items():
            if key == f"{_RDF}{_SEPARATOR}resource":
                self._add(self._owner(), value)
            elif _SEPARATOR in key and not key.startswith(_RDF):
                self._add(key, value)

    def text(self, data: str) -> None:
        self._text.append(data)

    def end(self, name: str) -> None:
        value = "".join(self._text).strip()
        if value:
            self._add(self._owner(), value)
        self._text = []
        self._names.pop()

    def refuse(self, *_: object) -> None:
        raise XmpError("document type and entity declarations are refused")

    def _owner(self) -> str:
        return next((name for name in reversed(self._names) if not name.startswith(_RDF)), "")

    def _add(self, name: str, value: str) -> None:
        uri, _, local = name.rpartition(_SEPARATOR)
        if not uri or uri == "adobe:ns:meta/":
            return
        prefix = _PREFIXES.get(uri)
        key = f"{prefix}:{local}" if prefix else f"{{{uri}}}{local}"
        self.found.setdefault(key, []).append(value[:VALUE_LIMIT])


def parse_xmp(packet: bytes) -> Xmp:
    """Parses a packet.

    Args:
        packet: raw XMP in UTF-8; empty gives no properties.

    Raises:
        XmpError: not well-formed, not UTF-8, with a document type or entities, or too large a tree.
    """
    packet = packet.strip(b"\0 \t\r\n\xef\xbb\xbf")
    if not packet:
        return Xmp()
    collector = _Collector()
    parser = expat.ParserCreate("UTF-8", namespace_separator=_SEPARATOR)
    parser.buffer_text = True
    parser.StartElementHandler = collector.start
    parser.EndElementHandler = collector.end
    parser.CharacterDataHandler = collector.text
    parser.StartDoctypeDeclHandler = collector.refuse
    parser.EntityDeclHandler = collector.refuse
    try:
        parser.Parse(packet, True)
    except expat.ExpatError as error:
        raise XmpError(f"not well-formed: {error}") from error
    return Xmp(MappingProxyType({name: tuple(values) for name, values in collector.found.items()}))
