"""Client channels with the options that our services need."""

from __future__ import annotations

from typing import Any

import grpc

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Largest single message either way: 3 MiB inline pictures and 1 MiB chunks in, reports with heat maps out."""

CHUNK_BYTES = 1024 * 1024
"""Size of the chunks in which pictures travel."""

INLINE_BYTES = 3 * 1024 * 1024
"""Largest picture in a single message."""

_OPTIONS: tuple[tuple[str, Any], ...] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # After a long outage the default back-off leaves a recovered backend unused for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # Two processes of one host must not share a connection pool's fate.
    ("grpc.use_local_subchannel_pool", 1),
)


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to one of our services.

    Args:
        address: "unix:/path/to.sock" or "host:port".
    """
    return grpc.aio.insecure_channel(address, options=list(_OPTIONS))
