"""Content Credentials as the C2PA library reads and validates them: a JSON document, never with the network."""

from __future__ import annotations

import functools
from typing import Any, BinaryIO, Final

from c2pa import C2paError, Context, Reader, Settings

MIME_TYPES: Final = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "GIF": "image/gif",
    "AVIF": "image/avif",
    "HEIF": "image/heic",
}
"""By container format; formats that are missing here cannot carry a manifest."""


class UnreadableCredentialsError(ValueError):
    """The file holds something that should be a manifest store but cannot be read."""


@functools.lru_cache(maxsize=4)
def _context(trust_anchors_pem: str) -> Context:
    settings: dict[str, Any] = {"verify": {"verify_trust": True, "remote_manifest_fetch": False, "ocsp_fetch": False}}
    if trust_anchors_pem:
        settings["trust"] = {"trust_anchors": trust_anchors_pem}
    return Context(settings=Settings.from_dict(settings))


def read_document(file: BinaryIO, container_format: str, trust_anchors_pem: str) -> str | None:
    """The manifest store embedded in a file, with its validation, as JSON text.

    Args:
        file: the whole file.
        container_format: `Container.format`.
        trust_anchors_pem: certificates of trusted issuers, PEM; empty: no signer is trusted.

    Returns:
        None when the file has no embedded store.

    Raises:
        UnreadableCredentialsError: there is one, or a reference to a remote one, but it cannot be read.
    """
    mime_type = MIME_TYPES.get(container_format)
    if mime_type is None:
        return None
    try:
        reader = Reader.try_create(mime_type, file, context=_context(trust_anchors_pem))
        if reader is None:
            return None
        with reader:
            return str(reader.json())
    except (C2paError, ValueError) as error:
        file.seek(0)
        if b"c2pa" not in file.read():  # the library fails on some files that have nothing to do with C2PA
            return None
        raise UnreadableCredentialsError(str(error)[:300]) from error
