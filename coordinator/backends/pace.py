"""How long a call holds its place at a backend, and so how long one that arrives now waits for a place."""

from __future__ import annotations

WEIGHT = 0.2
"""Of the newest call in the exponentially weighted mean: of what is older than ten calls a tenth is left."""
HEADROOM = 1.5
"""A wait is taken to be this much longer than the mean says: calls differ, and those with priority arrive later."""


class Pace:
    """Mean time that calls held their place, and what follows from it.

    With c places that are all taken, one is given back every `held_s` / c seconds on average, whatever the distribution
    of the times (renewal theory); a call with n before it thus waits (n + 1) `held_s` / c.
    """

    def __init__(self) -> None:
        self.held_s = 0.0
        """0 as long as nothing was measured."""

    def ended(self, held_s: float, *, well: bool) -> None:
        """A call gave its place back after so many seconds.

        One that was given up or failed tells only that it would have taken at least so long.
        """
        if well or held_s > self.held_s:
            self.held_s += (held_s - self.held_s) * (WEIGHT if self.held_s else 1.0)

    def wait_s(self, ahead: int, open_calls: int, places: int) -> float:
        """Seconds until a call that arrives now has a place; 0 when one is free or nothing is known.

        Args:
            ahead: calls that get a place before it.
            open_calls: calls that have one.
            places: most calls at a time, at least 1.
        """
        return max(ahead + open_calls - places + 1, 0) * self.held_s / places
