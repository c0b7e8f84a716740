"""Whose batch a batch is: the journal keeps the id of a client's batch as OWNER/ID, that of an operator's as ID."""

from __future__ import annotations

from dataclasses import dataclass

from serving.access.caller import current_caller
from serving.errors import MaifsError, Reason

SEPARATOR = "/"
"""No batch_id of a client has one, so that the last one in a stored id ends the owner's name."""


@dataclass(frozen=True)
class Scope:
    """What one caller may see of the journal, under the ids that the caller knows."""

    owner: str = ""
    """Name of the client whose batches these are; empty: an operator, who sees everybody's under their stored ids."""

    @property
    def prefix(self) -> str:
        """With which the stored ids begin."""
        return self.owner + SEPARATOR if self.owner else ""

    def stored(self, batch_id: str) -> str:
        """The journal's id of a batch.

        Raises:
            MaifsError: UNKNOWN_BATCH for what can be no batch of the caller.
        """
        if self.owner and SEPARATOR in batch_id:
            raise MaifsError(Reason.UNKNOWN_BATCH, f"There is no batch {batch_id[:128]!r}.")
        return self.prefix + batch_id

    def told(self, stored_id: str) -> str:
        """The caller's id of a batch."""
        return stored_id.removeprefix(self.prefix)


EVERYBODYS = Scope()
"""An operator's."""


def callers_scope() -> Scope:
    """Of whoever makes the call that the running task serves."""
    caller = current_caller.get()
    return EVERYBODYS if caller.operator else Scope(caller.client)
