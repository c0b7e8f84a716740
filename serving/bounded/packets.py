"""Messages between a service, its zygote and its workers: JSON with file descriptors, one packet each."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

MAX_PACKET_BYTES = 65_536
MAX_DESCRIPTORS = 4


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets that keep packets apart; each reads end-of-file when the other's process is gone."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def send(connection: socket.socket, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
    """Sends one message.

    Raises:
        OSError: the other side is gone, or the message is too large.
    """
    socket.send_fds(connection, [json.dumps(message).encode()], list(descriptors))


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Waits for one message; the descriptors are the caller's to close.

    Raises:
        EOFError: the other side is gone.
        TimeoutError: nothing came within the socket's timeout.
        ValueError: no message.
    """
    try:
        data, descriptors, _, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, MAX_DESCRIPTORS)
    except ConnectionError as error:
        raise EOFError from error
    if not data:
        raise EOFError
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("a packet must hold a JSON object")
    return message, descriptors
