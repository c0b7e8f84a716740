"""Whether a call is let in, and as whose. Knows methods, tokens and certificates, and no connection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from serving.access.caller import Caller
from serving.access.clients import Clients
from serving.access.quotas import UNLIMITED, Account, Quota
from serving.access.reload import Reloaded
from serving.errors import MaifsError, Reason

_BEARER = "bearer "
_CERTIFICATE = "x509_pem_cert"
"""In grpc's auth_context: the certificate that the client has shown."""

Metadata = Iterable[tuple[str, str | bytes]]


@dataclass(frozen=True)
class AccessConfig:
    """Who may call."""

    clients_file: Path | None = None
    """TOML file of clients with the digests of their tokens (docs/operations.md); read again when it changes. Not set:
    whoever reaches the listener may call."""
    status: bool = True
    """Whether callers learn of backends, load, devices and health by part; false leaves limits and overall health."""
    audit_file: Path | None = None
    """File to which each call is written as a line of JSON, in addition to the log."""
    quota: Quota = UNLIMITED
    """Of each client whose entry in clients_file does not say otherwise."""

    def faults(self) -> list[str]:
        """See serving.config."""
        if self.quota != UNLIMITED and self.clients_file is None:
            return ["access: quota needs clients_file, for without it nobody knows who calls"]
        return []


class Gate:
    """Lets calls in."""

    def __init__(self, clients: Reloaded[Clients] | None, *, status: bool) -> None:
        """Takes the clients (None: everybody may call) and AccessConfig.status."""
        self._clients, self._status = clients, status
        self._accounts: dict[str, Account] = {}

    def refuse_strangers(self, metadata: Metadata) -> None:
        """Refuses what metadata alone show to be no client's call, so that no message of it needs to be read.

        Raises:
            MaifsError: UNAUTHENTICATED.
        """
        if self._clients is None:
            return
        clients, token = self._clients.value, _token(metadata)
        if token is None and not clients.some_by_certificate:
            raise _stranger("carries no token")
        if token is not None and clients.with_token(token) is None:
            raise _stranger("carries a token that is not known here")

    def caller(self, metadata: Metadata, identity: Mapping[str, Iterable[bytes]]) -> Caller:
        """Who calls: by token where there is one, else by certificate.

        Args:
            metadata: of the call.
            identity: what the connection's handshake proved, as grpc's auth_context.

        Raises:
            MaifsError: UNAUTHENTICATED.
        """
        names = _certificate_names(identity)
        if self._clients is None:
            return Caller(names[0] if names else _fingerprint(identity), operator=_CERTIFICATE not in identity)
        token, clients = _token(metadata), self._clients.value
        client = clients.with_certificate(names) if token is None else clients.with_token(token)
        if client is None:
            raise _stranger("carries no token and comes with no known certificate" if token is None else "is unknown")
        return Caller(client.name, client.quota, self._accounts.setdefault(client.name, Account()), client.operator)

    def check_health(self, service: str) -> None:
        """Whether callers may ask for the health of a part.

        Args:
            service: "" for the whole.

        Raises:
            MaifsError: PERMISSION_DENIED.
        """
        if service and not self._status:
            raise MaifsError(Reason.PERMISSION_DENIED, "This service answers for its overall health alone.")


def _stranger(what: str) -> MaifsError:
    return MaifsError(
        Reason.UNAUTHENTICATED,
        f"The call {what}.",
        "Name the file of your token: --token-file, or MAIFS_TOKEN_FILE. The operator makes tokens.",
    )


def _token(metadata: Metadata) -> str | None:
    for key, value in metadata:
        if key == "authorization" and isinstance(value, str) and value.lower().startswith(_BEARER):
            return value[len(_BEARER) :].strip()
    return None


def _certificate_names(identity: Mapping[str, Iterable[bytes]]) -> list[str]:
    """Names of a client's certificate: those for machines first, then its common name."""
    keys = ("x509_subject_alternative_name", "x509_common_name")
    return [name.decode("utf-8", "replace") for key in keys for name in identity.get(key, ())]


def _fingerprint(identity: Mapping[str, Iterable[bytes]]) -> str:
    """A name for a certificate that bears none; empty where there is no certificate."""
    shown = b"".join(identity.get(_CERTIFICATE, ()))
    return f"sha256:{hashlib.sha256(shown).hexdigest()}" if shown else ""
