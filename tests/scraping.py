"""Reads a service's metrics as Prometheus does."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """One look."""

    text: str

    def samples(self, name: str) -> list[tuple[dict[str, str], float]]:
        """Labels and values of all samples of this name."""
        return [
            (sample.labels, sample.value)
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
            if sample.name == name
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum over the samples with these labels; 0 when there are none."""
        return sum(value for found, value in self.samples(name) if labels.items() <= found.items())

    @staticmethod
    def port_in(log: Path) -> int:
        """The port on which a service says in its JSON log that it shows metrics."""
        entries = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
        address = next(entry["address"] for entry in entries if entry["message"] == "metrics")
        return int(address.rpartition(":")[2])


def scrape(path: Path) -> Scrape:
    """GET /metrics on a UNIX socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(path))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := connection.recv(1 << 16):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), head
    return Scrape(body.decode())


def wait_value(path: Path, expected: float, name: str, **labels: str) -> Scrape:
    """Looks until a value is as expected: a call is counted a moment after its client has the answer."""
    end = time.monotonic() + 60
    while (shown := scrape(path)).value(name, **labels) != expected:
        if time.monotonic() > end:
            raise AssertionError(f"{name}{labels} is {shown.value(name, **labels)}, not {expected}:\n{shown.text}")
        time.sleep(0.05)
    return shown
