"""Client channels with the options that our services need: in the clear on UNIX sockets, with TLS on TCP."""

from __future__ import annotations

from typing import Any

import grpc

from serving.address import is_loopback, socket_path
from serving.channel_security import ChannelSecurity, ClientFiles, bearer
from serving.errors import MaifsError, Reason
from serving.fresh_channel import FreshChannel

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


def open_channel(address: str, security: ChannelSecurity | None = None) -> grpc.aio.Channel:
    """A channel to one of our services.

    Args:
        address: "unix:/path/to.sock" or "host:port".
        security: how to know the service and be known; when not given, TCP is trusted by the system's authorities.

    A channel with certificates is opened anew for the calls that begin after its files have changed.

    Raises:
        MaifsError: INVALID_CONFIG for files that are no good, and for what would go over a network in the clear.
    """
    security = security or ChannelSecurity()

    def open_now() -> grpc.aio.Channel:
        credentials, options = _credentials(address, security)
        if credentials is None:
            return grpc.aio.insecure_channel(address, options=options)
        return grpc.aio.secure_channel(address, credentials, options=options)

    if socket_path(address) or not security.files:
        return open_now()
    return FreshChannel(open_now, security.files)


def open_blocking_channel(address: str, security: ChannelSecurity | None = None) -> grpc.Channel:
    """The same for callers without an event loop."""
    credentials, options = _credentials(address, security or ChannelSecurity())
    if credentials is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, credentials, options=options)


def _credentials(
    address: str, security: ChannelSecurity
) -> tuple[grpc.ChannelCredentials | None, list[tuple[str, Any]]]:
    """Credentials, None for a channel in the clear; and options."""
    options = list(_OPTIONS)
    if socket_path(address):
        if security.token_file is None:
            return None, options
        # grpc hands tokens to channels alone that it knows to be private, as this one is by its file's permissions.
        local = grpc.local_channel_credentials(grpc.LocalConnectionType.UDS)
        return grpc.composite_channel_credentials(local, bearer(security.token_file)), options
    if security.insecure:
        if not is_loopback(address):
            raise MaifsError(
                Reason.INVALID_CONFIG, f"{address} is not on loopback: `insecure` would send pictures in the clear."
            )
        if security.token_file:
            raise MaifsError(Reason.INVALID_CONFIG, f"`insecure` would send the token to {address} in the clear.")
        return None, options
    if security.server_name:
        options.append(("grpc.ssl_target_name_override", security.server_name))
    credentials = ClientFiles.read(security).credentials()
    if security.token_file:
        credentials = grpc.composite_channel_credentials(credentials, bearer(security.token_file))
    return credentials, options
