"""Addresses to listen on: UNIX sockets and TCP, each bound by one process at a time."""

from __future__ import annotations

import fcntl
import ipaddress
import os
from pathlib import Path

from serving.errors import MaifsError, Reason

_UNIX = "unix:"


def socket_path(address: str) -> Path | None:
    """The path of a "unix:" address; None for TCP."""
    return Path(address.removeprefix(_UNIX)) if address.startswith(_UNIX) else None


def address_faults(address: str, *, tls: bool = False, insecure: bool = False) -> list[str]:
    """What is wrong with an address to listen on; empty when nothing is.

    Args:
        address: "unix:/absolute/path" or "host:port".
        tls: whether the listener has a certificate.
        insecure: whether loopback may be listened on in the clear.
    """
    path = socket_path(address)
    if path is not None:
        if not path.is_absolute():
            return [f"address = {address!r}: the path of a UNIX socket must be absolute"]
        if len(os.fsencode(path)) > 107:
            return [f"address = {address!r}: a UNIX socket's path holds at most 107 bytes"]
        return ["tls and insecure are for TCP; a UNIX socket is guarded by its permissions"] if tls or insecure else []
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        return [f"address = {address!r}: expected unix:/absolute/path or host:port"]
    if tls and insecure:
        return ["tls and insecure exclude each other"]
    if insecure and not is_loopback(address):
        return [f"address = {address!r}: insecure is for loopback alone, e.g. 127.0.0.1:{port}"]
    if not tls and not insecure:
        return [
            f"address = {address!r}: TCP needs TLS: set tls.certificate_file and tls.key_file; or use unix:/path; "
            "or, for loopback alone, --insecure"
        ]
    return []


def is_loopback(address: str) -> bool:
    """Whether "host:port" reaches this machine alone."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class SocketLock:
    """Exclusive use of a UNIX socket's path: gRPC itself silently takes over a path that another server listens on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Takes the lock and removes a socket left by a dead process.

        Raises:
            MaifsError: ADDRESS_IN_USE when another process serves here; OUTPUT_UNWRITABLE when the folder cannot be
                used.
        """
        lock = self._path.with_name(self._path.name + ".lock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MaifsError(
                Reason.OUTPUT_UNWRITABLE,
                f"The folder of the socket {self._path} cannot be used: {error.strerror}.",
                "Choose another address (server.address) or create the folder for this user.",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise MaifsError(
                Reason.ADDRESS_IN_USE,
                f"Another process is serving on unix:{self._path}.",
                "Stop it, or choose another address (server.address).",
            ) from None
        self._descriptor = descriptor
        self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Removes the socket and gives the lock back."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None
