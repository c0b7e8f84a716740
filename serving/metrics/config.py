"""Where a service shows its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from serving.address import address_faults


@dataclass(frozen=True)
class MetricsConfig:
    """Table [<service>.server.metrics]."""

    address: str = ""
    """"unix:/absolute/path" or "host:port" for GET /metrics; empty: nobody is shown anything."""
    beyond_loopback: bool = False
    """Whether TCP addresses other than loopback may be used. The pages are not encrypted and ask for no password."""

    def faults(self) -> list[str]:
        """See serving.config."""
        if not self.address:
            return []
        if self.beyond_loopback and not self.address.startswith("unix:"):
            _, _, port = self.address.rpartition(":")
            valid = port.isdigit() and int(port) <= 65535
            return [] if valid else [f"address = {self.address!r}: expected unix:/absolute/path or host:port"]
        return address_faults(self.address)
