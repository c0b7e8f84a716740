"""Everything that guards the listener of a service."""

from __future__ import annotations

from typing import Any

import grpc

from serving.access.audit import open_audit_file
from serving.access.clients import load_clients
from serving.access.gate import AccessConfig, Gate
from serving.access.interceptor import AccessInterceptor
from serving.access.reload import Reloaded, keep_fresh
from serving.access.tls import TlsConfig, load_material, server_credentials


class Access:
    """TLS, clients and the record of calls, as configured."""

    def __init__(self, tls: TlsConfig, config: AccessConfig, service: str) -> None:
        """Reads all files.

        Args:
            tls: of the listener.
            config: who may call.
            service: name for the audit file's lines.

        Raises:
            MaifsError: INVALID_CONFIG for files that are no good; OUTPUT_UNWRITABLE.
        """
        self._tls = tls
        files = [path for path in (tls.certificate_file, tls.key_file, tls.client_ca_file) if path]
        path = config.clients_file
        self._material = Reloaded("TLS certificate", files, lambda: load_material(tls)) if tls.enabled else None
        self._clients = Reloaded("clients", [path], lambda: load_clients(path, config.quota)) if path else None
        self.interceptor = AccessInterceptor(Gate(self._clients, status=config.status))
        if config.audit_file:
            open_audit_file(config.audit_file, service)

    def listen(self, server: grpc.aio.Server, address: str) -> None:
        """Opens the listener. Raises RuntimeError when the address cannot be bound."""
        if self._material is None:
            server.add_insecure_port(address)
            return
        credentials = server_credentials(self._material, require_client=self._tls.client_ca_file is not None)
        server.add_secure_port(address, credentials)

    @property
    def summary(self) -> dict[str, str]:
        """For the log."""
        tls = "none" if self._material is None else "mTLS" if self._tls.client_ca_file else "TLS"
        return {"tls": tls, "callers": "clients" if self._clients else "anybody"}

    async def keep_fresh(self) -> None:
        """Follows changes of the files until it is cancelled."""
        files: list[Reloaded[Any]] = [file for file in (self._material, self._clients) if file]
        await keep_fresh(files)
