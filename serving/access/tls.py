"""TLS of a listener: certificate, key, and whose clients are let in; renewed while the service runs."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.access.reload import Reloaded
from serving.errors import MaifsError, Reason
from serving.gpu.certificate import read_certificate

_log = logging.getLogger(__name__)
_SOON_DAYS = 21


@dataclass(frozen=True)
class TlsConfig:
    """Files of a TCP listener, PEM. They are read again when they change."""

    certificate_file: Path | None = None
    """Certificate of this service, then those between it and its authority; none: no TLS."""
    key_file: Path | None = None
    """Its private key, not encrypted."""
    client_ca_file: Path | None = None
    """Authorities of clients' certificates; when set, a client without one of theirs is not let in (mTLS)."""

    @property
    def enabled(self) -> bool:
        """Whether the listener speaks TLS."""
        return self.certificate_file is not None

    def faults(self) -> list[str]:
        """See serving.config."""
        if (self.certificate_file is None) != (self.key_file is None):
            return ["tls: set certificate_file and key_file together or neither"]
        if self.client_ca_file and not self.enabled:
            return ["tls: client_ca_file needs certificate_file and key_file"]
        return []


@dataclass(frozen=True)
class Material:
    """What a handshake needs, checked."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        """For grpc."""
        return grpc.ssl_server_certificate_configuration([(self.key, self.certificate)], self.client_ca)


def load_material(config: TlsConfig) -> Material:
    """Reads and checks the files of a listener.

    Raises:
        MaifsError: INVALID_CONFIG for files that cannot be read, are no PEM, do not belong together or have expired.
    """
    assert config.certificate_file is not None
    assert config.key_file is not None
    material = Material(
        read_pem(config.certificate_file),
        read_pem(config.key_file),
        read_pem(config.client_ca_file) if config.client_ca_file else None,
    )
    check_pair(config.certificate_file, config.key_file)
    if config.client_ca_file and material.client_ca is not None:
        check_authorities(config.client_ca_file, material.client_ca)
    check_expiry(config.certificate_file)
    return material


def read_pem(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror}") from error


def check_pair(certificate: Path, key: Path) -> None:
    """Sees that a key belongs to a certificate.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except _EncryptedKeyError as error:
        raise _unusable(key, "is encrypted; give it unencrypted, readable by the service alone") from error
    except (ssl.SSLError, OSError, ValueError) as error:
        raise _unusable(certificate, f"and {key} are not a certificate with its key: {error}") from error


def check_authorities(path: Path, pem: bytes) -> None:
    """Sees that a file holds certificates.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as error:
        raise _unusable(path, f"holds no certificates of authorities: {error}") from error
    if not context.cert_store_stats()["x509"]:
        raise _unusable(path, "holds no certificates of authorities")


def server_credentials(material: Reloaded[Material], *, require_client: bool) -> grpc.ServerCredentials:
    """Credentials whose every handshake uses what `material` holds at that moment.

    Args:
        material: kept fresh by serving.access.reload.keep_fresh.
        require_client: whether a client must show a certificate.
    """
    current = material.value

    def fetch() -> grpc.ServerCertificateConfiguration | None:  # called by grpc's threads: no file is touched here
        nonlocal current
        newest = material.value
        if newest is current:
            return None
        current = newest
        return newest.configuration()

    return grpc.dynamic_ssl_server_credentials(
        current.configuration(),
        fetch,  # type: ignore[arg-type]  # the types lack None, which grpc documents
        require_client_authentication=require_client,
    )


class _EncryptedKeyError(Exception):
    """The key asks for a password."""


def _no_password() -> str:
    raise _EncryptedKeyError


def check_expiry(path: Path) -> None:
    """Sees that a certificate has not expired; one that soon will is a warning in the log.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    found = read_certificate(path)
    if found is None or found.days_left is None:  # no openssl here: clients will judge
        return
    if found.days_left < 0:
        raise _unusable(path, f"expired {-found.days_left:.0f} days ago")
    if found.days_left < _SOON_DAYS:
        _log.warning("TLS certificate expires soon", extra={"path": str(path), "days_left": round(found.days_left, 1)})


def _unusable(path: Path, what: str) -> MaifsError:
    return MaifsError(Reason.INVALID_CONFIG, f"{path} {what}.", "See server.tls in docs/operations.md.")
