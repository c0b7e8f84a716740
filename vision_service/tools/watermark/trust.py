"""Issuers of Content Credentials that are trusted: certificates from a file, read at start, never from a network."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from serving.errors import MaifsError, Reason


def load_trust_anchors(path: Path) -> str:
    """The certificates of a PEM file, as text for the C2PA library.

    Raises:
        MaifsError: FILE_UNREADABLE when the file cannot be read; INVALID_CONFIG when it holds no certificate or one
            that cannot be parsed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MaifsError(
            Reason.FILE_UNREADABLE,
            f"The trust anchors {path} cannot be read: {error}.",
            "Check the path and its rights; certificates must be PEM text.",
        ) from error
    try:
        x509.load_pem_x509_certificates(text.encode())
    except ValueError as error:
        raise MaifsError(
            Reason.INVALID_CONFIG,
            f"The trust anchors {path} hold no readable certificates: {error}.",
            "Give one or more certificates as PEM, each between BEGIN CERTIFICATE and END CERTIFICATE.",
        ) from error
    return text
