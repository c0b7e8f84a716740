"""Who makes the call that the running task serves, and the room that its quota leaves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from serving.access.quotas import UNLIMITED, Account, Quota
from serving.item_stream import Budget


@dataclass(frozen=True)
class Caller:
    """Who calls."""

    client: str = ""
    """Name; empty where the service does not ask who calls."""
    quota: Quota = UNLIMITED
    account: Account | None = None
    operator: bool = False
    """Whether what others left here concerns the caller: everybody's, where the service does not ask who calls."""


current_caller: ContextVar[Caller] = ContextVar("maifs_caller", default=Caller(operator=True))  # noqa: B039 - frozen
"""Set by serving.access.interceptor."""


class Metered:
    """Room within a client's quota and, where there is one, within a budget."""

    def __init__(self, caller: Caller, budget: Budget | None = None) -> None:
        self._caller, self._budget = caller, budget

    def reserve(self, size_bytes: int) -> None:
        """Takes room.

        Raises:
            MaifsError: QUOTA_EXCEEDED, or what the budget raises.
        """
        if self._budget:
            self._budget.reserve(size_bytes)
        try:
            if self._caller.account:
                self._caller.account.open(self._caller.client, self._caller.quota, size_bytes)
        except BaseException:
            if self._budget:
                self._budget.release(size_bytes)
            raise

    def release(self, size_bytes: int) -> None:
        """Gives room back."""
        if self._caller.account:
            self._caller.account.close()
        if self._budget:
            self._budget.release(size_bytes)


def metered(budget: Budget | None = None) -> Budget:
    """The budget within the quota of whoever calls now."""
    return Metered(current_caller.get(), budget)


@contextmanager
def counted(size_bytes: int, budget: Budget | None = None) -> Iterator[None]:
    """One item of whoever calls now, open for as long as the block runs.

    Raises:
        MaifsError: see Metered.reserve.
    """
    room = metered(budget)
    room.reserve(size_bytes)
    try:
        yield
    finally:
        room.release(size_bytes)
