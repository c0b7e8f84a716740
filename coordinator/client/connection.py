"""How clients connect to a coordinator: what the command line said, else what the environment says."""

from __future__ import annotations

from contextvars import ContextVar

import grpc

from serving.channel import open_channel
from serving.channel_security import ChannelSecurity

given_security: ContextVar[ChannelSecurity | None] = ContextVar("maifs_security", default=None)
"""Options of the command line; None: the environment decides."""


def security() -> ChannelSecurity:
    """What counts here.

    Raises:
        MaifsError: INVALID_CONFIG.
    """
    return given_security.get() or ChannelSecurity.from_environment()


def connect(address: str) -> grpc.aio.Channel:
    """A channel to a coordinator.

    Raises:
        MaifsError: see serving.channel.open_channel.
    """
    return open_channel(address, security())
