"""Where the replicas are, and how much work waits for them: one small actor that every replica talks to."""

from __future__ import annotations

import time
from typing import Any

import ray

NAME, NAMESPACE = "maifs-directory", "maifs"
LEASE_S = 10.0
"""Seconds after which a replica that was not heard of counts as gone."""
CALL_TIMEOUT_S = 5.0


class Directory:
    """Addresses by role, with leases, and the load that the coordinator sees.

    Nothing in it outlives a restart: replicas announce themselves again and again.
    """

    def __init__(self) -> None:
        self._heard: dict[str, dict[str, float]] = {}
        self._loads: dict[str, float] = {}

    def announce(self, role: str, address: str) -> None:
        """A replica serves at this address."""
        self._heard.setdefault(role, {})[address] = time.monotonic()

    def withdraw(self, role: str, address: str) -> None:
        """A replica is about to stop."""
        self._heard.get(role, {}).pop(address, None)

    def addresses(self, role: str) -> list[str]:
        """Those announced within `LEASE_S`, in order."""
        now = time.monotonic()
        heard = self._heard.get(role, {})
        for address in [address for address, when in heard.items() if now - when > LEASE_S]:
            del heard[address]
        return sorted(heard)

    def set_load(self, role: str, items: float) -> None:
        """Items that are with the replicas of a role or wait for them."""
        self._loads[role] = items

    def load_per_replica(self, role: str) -> float:
        """Items for each announced replica."""
        return self._loads.get(role, 0.0) / max(len(self.addresses(role)), 1)


def directory() -> Any:
    """A handle to the cluster's directory, which is made where there is none."""
    return (
        ray.remote(Directory)
        .options(name=NAME, namespace=NAMESPACE, get_if_exists=True, lifetime="detached", max_restarts=-1, num_cpus=0)
        .remote()
    )
