"""How a client knows a service, and how the service knows the client: authorities, certificate, token."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from serving.access.tls import check_authorities, check_expiry, check_pair, read_pem
from serving.errors import MaifsError, Reason

FILE_VARIABLES = {
    "ca_file": "MAIFS_CA_FILE",
    "certificate_file": "MAIFS_CERTIFICATE_FILE",
    "key_file": "MAIFS_KEY_FILE",
    "token_file": "MAIFS_TOKEN_FILE",
}
"""Environment variables of the command line and the Python client, by setting."""
NAME_VARIABLE = "MAIFS_SERVER_NAME"
INSECURE_VARIABLE = "MAIFS_INSECURE"

_LONGEST_TOKEN = 512


@dataclass(frozen=True)
class ChannelSecurity:
    """Of a channel to one service. The files of certificates concern TCP alone, a token any channel but an insecure."""

    ca_file: Path | None = None
    """PEM file of the authorities that vouch for the service; the system's when not set."""
    certificate_file: Path | None = None
    """PEM file of the client's own certificate, for a service that asks for one (mTLS)."""
    key_file: Path | None = None
    """Its private key."""
    server_name: str = ""
    """Name that the service's certificate must bear; that of the address when empty."""
    token_file: Path | None = None
    """File with the client's token; read at each call, so that a new one counts at once."""
    insecure: bool = False
    """Whether loopback is called in the clear."""

    def faults(self) -> list[str]:
        """See serving.config."""
        if (self.certificate_file is None) != (self.key_file is None):
            return ["set certificate_file and key_file together or neither"]
        if self.insecure and self != ChannelSecurity(insecure=True):
            return ["insecure excludes the other settings"]
        return []

    @property
    def files(self) -> tuple[Path, ...]:
        """Those that a handshake uses."""
        return tuple(path for path in (self.ca_file, self.certificate_file, self.key_file) if path)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ChannelSecurity:
        """What MAIFS_CA_FILE and its like say.

        Raises:
            MaifsError: INVALID_CONFIG.
        """
        files = {name: _path(environ.get(variable)) for name, variable in FILE_VARIABLES.items()}
        insecure = environ.get(INSECURE_VARIABLE, "").lower() in {"1", "true", "yes", "on"}
        security = cls(**files, server_name=environ.get(NAME_VARIABLE, ""), insecure=insecure)
        if faults := security.faults():
            raise MaifsError(Reason.INVALID_CONFIG, f"{'; '.join(faults)} ({', '.join(FILE_VARIABLES.values())}).")
        return security


def _path(text: str | None) -> Path | None:
    return Path(text).expanduser() if text else None


@dataclass(frozen=True)
class ClientFiles:
    """What a handshake needs of a client, checked."""

    authorities: bytes | None
    certificate: bytes | None
    key: bytes | None

    @classmethod
    def read(cls, security: ChannelSecurity) -> ClientFiles:
        """Reads and checks the files.

        Raises:
            MaifsError: INVALID_CONFIG.
        """
        authorities = certificate = key = None
        if security.ca_file:
            authorities = read_pem(security.ca_file)
            check_authorities(security.ca_file, authorities)
        if security.certificate_file and security.key_file:
            certificate, key = read_pem(security.certificate_file), read_pem(security.key_file)
            check_pair(security.certificate_file, security.key_file)
            check_expiry(security.certificate_file)
        return cls(authorities, certificate, key)

    def credentials(self) -> grpc.ChannelCredentials:
        """For grpc."""
        return grpc.ssl_channel_credentials(self.authorities, self.key, self.certificate)


def bearer(path: Path) -> grpc.CallCredentials:
    """Credentials that put the token of a file on each call.

    Raises:
        MaifsError: INVALID_CONFIG when the file holds no token now.
    """
    read_token(path)
    return grpc.metadata_call_credentials(_Bearer(path), name="token")


def read_token(path: Path) -> str:
    """The token in a file.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    try:
        token = path.read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise MaifsError(Reason.INVALID_CONFIG, f"The token file {path} cannot be read: {error}.") from error
    if not 0 < len(token) <= _LONGEST_TOKEN or not token.isprintable() or " " in token:
        raise MaifsError(Reason.INVALID_CONFIG, f"The token file {path} must hold one token and nothing else.")
    return token


_Answer = Callable[[tuple[tuple[str, str], ...], Exception | None], None]


class _Bearer(grpc.AuthMetadataPlugin):
    """Called by grpc in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(
        self,
        context: grpc.AuthMetadataContext,
        callback: Callable[[tuple[tuple[str, str], ...], Exception | None], None],
    ) -> None:
        """See grpc.AuthMetadataPlugin."""
        try:
            callback((("authorization", f"Bearer {read_token(self._path)}"),), None)
        except MaifsError as error:
            callback((), error)
