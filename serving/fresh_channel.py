"""A channel whose certificates may be renewed while it is open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc

from serving.access.reload import LOOK_EVERY_S, Reloaded


class FreshChannel(grpc.aio.Channel):
    """Calls go through the newest of the channels that it has opened, one for each state of its files.

    grpc fixes the credentials of a channel when it is opened. Older channels stay open until this one is closed: calls
    in progress end on the channel on which they began, and renewals are rare.
    """

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel], files: Sequence[Path]) -> None:
        """Opens the first channel.

        Args:
            open_channel: opens one with what the files hold now; raises MaifsError for files that are no good.
            files: whose change calls for a new one.
        """
        self._opened: list[grpc.aio.Channel] = []

        def open_another() -> grpc.aio.Channel:
            self._opened.append(open_channel())
            return self._opened[-1]

        self._channel = Reloaded("client's certificate", files, open_another)
        self._looked = time.monotonic()

    def newest(self) -> grpc.aio.Channel:
        """The channel for a call that begins now."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._looked = time.monotonic()
            self._channel.look()
        return self._channel.value

    def unary_unary(self, *args: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.unary_unary(*args, **options))

    def unary_stream(self, *args: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.unary_stream(*args, **options))

    def stream_unary(self, *args: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.stream_unary(*args, **options))

    def stream_stream(self, *args: Any, **options: Any) -> Any:
        """See grpc.aio.Channel."""
        return _Method(self, lambda channel: channel.stream_stream(*args, **options))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """See grpc.aio.Channel."""
        return self.newest().get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See grpc.aio.Channel."""
        await self.newest().wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See grpc.aio.Channel."""
        await self.newest().channel_ready()

    async def close(self, grace: float | None = None) -> None:
        """See grpc.aio.Channel."""
        for channel in self._opened:
            await channel.close(grace)

    async def __aenter__(self) -> FreshChannel:
        """See grpc.aio.Channel."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """See grpc.aio.Channel."""
        await self.close()


class _Method:
    """A method's callable, of the newest channel."""

    def __init__(self, owner: FreshChannel, make: Callable[[grpc.aio.Channel], Any]) -> None:
        self._owner, self._make = owner, make
        self._channel = owner.newest()
        self._callable = make(self._channel)

    def __call__(self, *args: Any, **options: Any) -> Any:
        newest = self._owner.newest()
        if newest is not self._channel:
            self._channel, self._callable = newest, self._make(newest)
        return self._callable(*args, **options)
