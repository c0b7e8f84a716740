"""When the certificate of the services expires."""

from __future__ import annotations

import ssl
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CERTIFICATE = Path("/etc/credstore/maifs.tls-cert")
"""Where the units load it from (LoadCredential)."""


@dataclass(frozen=True)
class Certificate:
    """The certificate that is in place."""

    path: Path
    days_left: float | None
    """Below 0 when it has expired; None when it cannot be read."""


def read_certificate(path: Path = CERTIFICATE) -> Certificate | None:
    """None when there is none."""
    try:
        if not path.exists():
            return None
    except PermissionError:
        return None
    command = ["openssl", "x509", "-noout", "-enddate", "-in", str(path)]
    try:
        text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout  # noqa: S603
        end = ssl.cert_time_to_seconds(text.strip().removeprefix("notAfter="))
    except (OSError, subprocess.SubprocessError, ValueError):
        return Certificate(path, None)
    return Certificate(path, (end - time.time()) / 86_400)
