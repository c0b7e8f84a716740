"""Where a service shows its metrics."""

from __future__ import annotations

from dataclasses import dataclass

from serving.address import address_faults, is_loopback


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
        if self.address.startswith("unix:"):
            return address_faults(self.address)
        host, _, port = self.address.rpartition(":")
        if not host or not port.isdigit() or int(port) > 65535:
            return [f"address = {self.address!r}: expected unix:/absolute/path or host:port"]
        if not self.beyond_loopback and not is_loopback(self.address):
            return [
                f"address = {self.address!r}: metrics are shown to everybody who can reach them; use unix:/path or "
                f"127.0.0.1:{port}, or set beyond_loopback"
            ]
        return []
