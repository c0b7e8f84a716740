"""Whose turn it is: priorities, and within a priority the clients in rotation. Knows nothing of what waits."""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

T = TypeVar("T")

BATCH_SHARE = 8
"""Every so many turns the least urgent that waits goes first, so that it comes at all."""


class Priority(enum.IntEnum):
    """Lower goes first."""

    RETRY = 0
    """Had its turn and lost it to a failed backend."""
    INTERACTIVE = 1
    """Somebody waits for the answer."""
    BATCH = 2
    """Nobody watches."""


@dataclass(frozen=True)
class Turn:
    """For whom something waits."""

    client: str = ""
    """Who shares turns with whom: a client that is known by name, else a stream, or a connection's single calls."""
    priority: Priority = Priority.INTERACTIVE

    def again(self) -> Turn:
        """Ahead of those that have not had a turn yet."""
        return replace(self, priority=Priority.RETRY)


ANYBODY = Turn()
"""For a caller that does not say who it is."""


class FairQueue(Generic[T]):
    """First in, first out for each client; one item of each client in rotation; priorities before that."""

    def __init__(self) -> None:
        self._lines: dict[Priority, OrderedDict[str, deque[T]]] = {priority: OrderedDict() for priority in Priority}
        self._length = 0
        self._turns = 0

    def __len__(self) -> int:
        return self._length

    def push(self, turn: Turn, item: T) -> None:
        """Adds an item at the end of its client's line."""
        self._lines[turn.priority].setdefault(turn.client, deque()).append(item)
        self._length += 1

    def ahead(self, turn: Turn) -> int:
        """How many would be taken before an item that came now, if none came after it."""
        line = self._lines[turn.priority]
        own = len(line.get(turn.client, ()))
        peers, rounds = own, own + 1
        for client, waiting in line.items():
            if client == turn.client:
                rounds = own  # those behind it in the rotation have one turn less before its next
            else:
                peers += min(len(waiting), rounds)
        lengths = {p: sum(map(len, clients.values())) for p, clients in self._lines.items()}
        before = peers + sum(length for p, length in lengths.items() if p < turn.priority)
        below = sum(length for p, length in lengths.items() if p > turn.priority)
        if not below:
            # the least urgent that waits goes first every so many turns
            return min(before, (peers + 1) * BATCH_SHARE - 1)
        return before + min(below, before // (BATCH_SHARE - 1))

    def pop(self) -> T:
        """Takes the item whose turn it is.

        Raises:
            IndexError: when nothing waits.
        """
        waiting = [priority for priority in Priority if self._lines[priority]]
        if not waiting:
            raise IndexError("nothing waits")
        self._turns += 1
        clients = self._lines[waiting[-1] if self._turns % BATCH_SHARE == 0 else waiting[0]]
        client, line = next(iter(clients.items()))
        item = line.popleft()
        if line:
            clients.move_to_end(client)
        else:
            del clients[client]
        self._length -= 1
        return item

    def firsts(self) -> Iterator[T]:
        """The item that is first in each line; the one that has waited longest is among them."""
        return (line[0] for clients in self._lines.values() for line in clients.values())

    def remove(self, turn: Turn, item: T) -> bool:
        """Takes an item out that does not want its turn any more; False when it was not waiting."""
        clients = self._lines[turn.priority]
        line = clients.get(turn.client)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del clients[turn.client]
        self._length -= 1
        return True
