"""The clients of a service: a TOML file with the digests of their tokens and their quotas.

    [clients.newsroom]
    token_sha256 = ["<64 hexadecimal digits>"]    # two while a token is replaced
    items_per_minute = 120

Tokens are 256 random bits (`new_token`), so that one SHA-256 is all that the file needs: there is nothing to guess.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from serving.access.quotas import Quota
from serving.errors import MaifsError, Reason

TOKEN_PREFIX = "maifs_"  # noqa: S105 - by which scanners for leaked secrets know one
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_QUOTAS = tuple(field.name for field in fields(Quota))
_OTHERS_MAY_WRITE = 0o002


@dataclass(frozen=True)
class Client:
    """Somebody who may call."""

    name: str
    quota: Quota
    operator: bool = False
    """Whether this client sees and cancels the batches of all."""


def new_token() -> str:
    """A fresh token, to be given to a client and kept nowhere."""
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def is_name(text: str) -> bool:
    """Whether a client may be called so."""
    return _NAME.fullmatch(text) is not None


def digest_of(token: str) -> str:
    """What the file keeps of a token, hexadecimal."""
    return hashlib.sha256(token.encode()).hexdigest()


class Clients:
    """Everybody who may call."""

    def __init__(self, by_digest: Mapping[str, Client], by_certificate: Mapping[str, Client]) -> None:
        self._by_digest = tuple((digest.encode(), client) for digest, client in by_digest.items())
        self._by_certificate = dict(by_certificate)

    @property
    def some_by_certificate(self) -> bool:
        """Whether any client may do without a token."""
        return bool(self._by_certificate)

    def with_token(self, token: str) -> Client | None:
        """Whose token it is. The time that it takes tells nothing about the digests."""
        digest = digest_of(token).encode()
        found = None
        for known, client in self._by_digest:
            if hmac.compare_digest(known, digest):
                found = client
        return found

    def with_certificate(self, names: Iterable[str]) -> Client | None:
        """Who has a certificate, proven in the handshake, with one of these names."""
        return next((self._by_certificate[name] for name in names if name in self._by_certificate), None)


def load_clients(path: Path, default: Quota) -> Clients:
    """Reads the file of clients.

    Args:
        path: TOML, see module.
        default: quota of what a client's entry leaves out.

    Raises:
        MaifsError: INVALID_CONFIG naming every fault.
    """
    try:
        if path.stat().st_mode & _OTHERS_MAY_WRITE:
            raise _unusable(path, ["anybody may write it: chmod o-w"])
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise _unusable(path, [f"it cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unusable(path, [f"it is not valid TOML: {error}"]) from error
    faults = [f"unknown table or setting {key!r}" for key in table if key != "clients"]
    entries = table.get("clients", {})
    by_digest: dict[str, Client] = {}
    by_certificate: dict[str, Client] = {}
    if not isinstance(entries, dict) or not entries:
        faults.append("there is no client: add [clients.NAME]")
    else:
        for name, entry in entries.items():
            _add(name, entry, default, by_digest, by_certificate, faults)
    if faults:
        raise _unusable(path, faults)
    return Clients(by_digest, by_certificate)


def _add(
    name: str,
    entry: Any,
    default: Quota,
    by_digest: dict[str, Client],
    by_certificate: dict[str, Client],
    faults: list[str],
) -> None:
    where = f"clients.{name}"
    if not is_name(name) or not isinstance(entry, dict):
        faults.append(f"{where}: must be a table whose name has 1 to 64 characters of A-Z a-z 0-9 . _ -")
        return
    known = {"token_sha256", "certificates", "operator", *_QUOTAS}
    faults += [f"{where}: unknown setting {key!r}" for key in entry if key not in known]
    operator = entry.get("operator", False)
    if not isinstance(operator, bool):
        faults.append(f"{where}: operator must be true or false")
    client = Client(name, _quota(where, entry, default, faults), operator is True)
    digests, names = _texts(where, entry, "token_sha256", faults), _texts(where, entry, "certificates", faults)
    if not digests and not names:
        faults.append(f"{where}: has neither token_sha256 nor certificates")
    faults += [f"{where}: token_sha256 must be 64 hexadecimal digits" for d in digests if not _DIGEST.fullmatch(d)]
    for given, taken in ((digests, by_digest), (names, by_certificate)):
        for text in given:
            if text in taken:
                faults.append(f"{where}: shares a token or certificate with clients.{taken[text].name}")
            taken[text] = client


def _quota(where: str, entry: Mapping[str, Any], default: Quota, faults: list[str]) -> Quota:
    values = {name: entry.get(name, getattr(default, name)) for name in _QUOTAS}
    if any(type(value) is not int for value in values.values()):
        faults.append(f"{where}: {', '.join(_QUOTAS)} must be whole numbers")
        return default
    quota = Quota(**values)
    faults += [f"{where}: {fault}" for fault in quota.faults()]
    return quota


def _texts(where: str, entry: Mapping[str, Any], name: str, faults: list[str]) -> list[str]:
    value = entry.get(name, [])
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        faults.append(f"{where}: {name} must be a list of texts")
        return []
    return texts


def _unusable(path: Path, faults: list[str]) -> MaifsError:
    listed = "\n".join(f"  - {fault}" for fault in faults)
    return MaifsError(
        Reason.INVALID_CONFIG,
        f"The file of clients {path} has {len(faults)} fault(s):\n{listed}",
        "\n`coordinator-cli token NAME` makes an entry.",
    )
