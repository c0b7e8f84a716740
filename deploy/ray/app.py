"""MAIFS as a Ray Serve application: `serve run deploy.ray.app:build` (docs/scaling.md).

Ray places, restarts, scales and gives out GPUs. Each replica runs the ordinary service as a child process with its own
gRPC listener, so that contracts, deadlines, cancellation, health, TLS and tokens are those of a single host. Replicas
announce their addresses in a directory; the coordinator follows them. Clients call the coordinator's listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from coordinator.backends.addresses import LOOK_EVERY_S
from deploy.ray.directory import CALL_TIMEOUT_S, directory
from deploy.ray.load import items_of
from deploy.ray.process import Role, ServiceProcess, free_address
from serving.channel_security import ChannelSecurity
from serving.config import load_config

_log = logging.getLogger("ray.serve")

ANNOUNCE_EVERY_S = 2.0
FOLLOW_EVERY_S = 0.5
LOAD = "items_per_replica"


@dataclass(frozen=True)
class ReplicaOptions:
    """What a replica needs to know."""

    role: Role
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of its service's configuration, as for `--set`."""
    security: ChannelSecurity = field(default_factory=ChannelSecurity)
    """How to call it."""
    host: str = ""
    """Address to listen on; empty: its node's."""
    port: int = 0
    """0: any that is free."""
    start_timeout_s: float = 120.0


class Replica:
    """One service on one node."""

    def __init__(self, options: ReplicaOptions) -> None:
        """Starts the service and waits until it serves. Raises RuntimeError, with its log, when it does not."""
        host = options.host or ray.util.get_node_ip_address()
        address = f"{host}:{options.port}" if options.port else free_address(host)
        self._role, self._security, self._directory = options.role, options.security, directory()
        self._process = ServiceProcess(options.role, self._settings(options), address, options.security)
        self._leaving = threading.Event()
        try:
            self._process.wait_serving(options.start_timeout_s)
        except BaseException:
            self._process.stop()
            raise
        self._announcing = threading.Thread(target=self._announce, name="announce", daemon=True)
        self._announcing.start()

    def _settings(self, options: ReplicaOptions) -> dict[str, str]:
        return dict(options.settings)

    def _announce(self) -> None:
        while not self._leaving.wait(ANNOUNCE_EVERY_S if self._tell() else 0.2):
            pass

    def _tell(self) -> bool:
        """Renews the lease; false when that did not go through."""
        try:
            ray.get(self._directory.announce.remote(self._role, self._process.address), timeout=CALL_TIMEOUT_S)
        except Exception:  # noqa: BLE001 - the directory is being started again
            _log.warning("directory does not answer")
            return False
        return True

    def __call__(self) -> dict[str, Any]:
        """Where it serves."""
        return {"role": self._role, "address": self._process.address, "pid": self._process.pid}

    def check_health(self) -> None:
        """Asked by Ray Serve again and again; a replica that raises is replaced."""
        self._process.check()

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Asked by Ray Serve; see `by_load`."""
        return {LOAD: float(await self._directory.load_per_replica.remote(self._role))}

    def __del__(self) -> None:
        """Called by Ray Serve when the replica is to go: no new work, then an end to what there is."""
        if not hasattr(self, "_announcing"):
            return
        self._leaving.set()
        self._announcing.join()
        with contextlib.suppress(Exception):  # the cluster may be going down
            ray.get(self._directory.withdraw.remote(self._role, self._process.address), timeout=CALL_TIMEOUT_S)
            threading.Event().wait(2 * LOOK_EVERY_S + FOLLOW_EVERY_S)
        self._process.stop()


class CoordinatorReplica(Replica):
    """The coordinator, which owns the journal: there is one at a time."""

    def __init__(self, options: ReplicaOptions, roles: tuple[Role, ...], *parts: DeploymentHandle) -> None:
        """Args as Replica.

        Args:
            options: see there.
            roles: of the services behind it.
            parts: their deployments, which makes one application of all.
        """
        self._roles = roles
        self._known: dict[Role, list[str]] = {}
        super().__init__(options)
        threading.Thread(target=lambda: asyncio.run(self._follow()), name="follow", daemon=True).start()

    def _settings(self, options: ReplicaOptions) -> dict[str, str]:
        settings: dict[str, str] = {"llm_address": ""}
        self._files = Path(tempfile.mkdtemp(prefix="maifs-addresses-"))
        for role in self._roles:
            self._write(role, ray.get(self._directory.addresses.remote(role), timeout=CALL_TIMEOUT_S))
            settings[f"{role}_addresses_file"] = str(self._file(role))
        return settings | dict(options.settings)

    def _file(self, role: Role) -> Path:
        return self._files / f"{role}.addresses"

    def _write(self, role: Role, addresses: list[str]) -> None:
        if self._known.get(role) == addresses:
            return
        part = self._file(role).with_suffix(".part")
        part.write_text("".join(f"{address}\n" for address in addresses))
        part.rename(self._file(role))
        self._known[role] = addresses

    async def _follow(self) -> None:
        """Keeps the coordinator's files of addresses, and tells the directory its load."""
        while True:
            try:
                for role in self._roles:
                    self._write(role, await self._directory.addresses.remote(role))
                for role, items in (await items_of(self._process.address, self._security)).items():
                    await self._directory.set_load.remote(role, items)
            except Exception as error:  # noqa: BLE001 - the directory, or the coordinator, is being started again
                _log.warning("addresses not followed: %s", error)
            await asyncio.sleep(FOLLOW_EVERY_S)


class ByLoad:
    """As many replicas as it takes for each to have `target` items, waiting ones counted."""

    def __init__(self, target: float) -> None:
        self._target = target

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        """See ray.serve.config.AutoscalingPolicy."""
        loads = (context.aggregated_metrics or {}).get(LOAD) or {}
        if not loads:
            return context.target_num_replicas, {}
        return max(math.ceil(sum(loads.values()) / self._target), 1), {}


class Options(BaseModel):
    """Arguments of `build`: after `serve run deploy.ray.app:build`, or `args` in a Serve configuration file."""

    model_config = ConfigDict(extra="forbid")

    vision: dict[str, str] = {}
    """Settings of the vision service, as for its `--set`."""
    llm: dict[str, str] | None = None
    """Settings of the language-model service; None: there is none, and the rules write the explanations."""
    coordinator: dict[str, str] = {}
    """Settings of the coordinator. Set state_folder to a disk that outlives the node, for batches."""
    port: int = 50050
    """Of the coordinator, on every address of its node that `host` covers."""
    host: str = ""
    """Address on which all listen; empty: each node's own."""
    security: dict[str, str] = {}
    """How replicas call each other, fields of serving.channel_security.ChannelSecurity: ca_file, token_file, or
    insecure=true on loopback."""
    min_visions: int = Field(default=1, ge=1)
    max_visions: int = Field(default=8, ge=1)
    items_per_vision: float = Field(default=4.0, gt=0)
    """Items, waiting ones counted, for which one vision replica is enough."""
    vision_cpus: float = 2.0
    vision_gpus: float = 0.0
    llm_replicas: int = Field(default=1, ge=1)
    llm_cpus: float = 2.0
    llm_gpus: float = 0.0
    """GPUs of one language-model replica on one node: its tensor-parallel size."""
    upscale_delay_s: float = 10.0
    downscale_delay_s: float = 120.0


def build(options: Options) -> serve.Application:
    """The application. Its ingress deployment answers with the coordinator's address."""
    security = _security(options.security)
    common = {"health_check_period_s": 5.0, "health_check_timeout_s": 20.0, "max_ongoing_requests": 16}

    def replica(role: Role, settings: Mapping[str, str], **more: Any) -> ReplicaOptions:
        plain = {"server.insecure": "true"} if security.insecure else {}
        return ReplicaOptions(role, plain | dict(settings), security, options.host, **more)

    parts = [
        serve.deployment(Replica, name="vision", **common)
        .options(
            ray_actor_options={"num_cpus": options.vision_cpus, "num_gpus": options.vision_gpus},
            graceful_shutdown_timeout_s=60.0,
            autoscaling_config=AutoscalingConfig(
                min_replicas=options.min_visions,
                max_replicas=options.max_visions,
                upscale_delay_s=options.upscale_delay_s,
                downscale_delay_s=options.downscale_delay_s,
                look_back_period_s=10.0,
                metrics_interval_s=2.0,
                policy=AutoscalingPolicy(
                    policy_function="deploy.ray.app:ByLoad", policy_kwargs={"target": options.items_per_vision}
                ),
            ),
        )
        .bind(replica("vision", options.vision))
    ]
    roles: tuple[Role, ...] = ("vision",)
    if options.llm is not None:
        roles = ("vision", "llm")
        parts.append(
            serve.deployment(Replica, name="llm", **common)
            .options(
                ray_actor_options={"num_cpus": options.llm_cpus, "num_gpus": options.llm_gpus},
                num_replicas=options.llm_replicas,
                graceful_shutdown_timeout_s=60.0,
            )
            .bind(replica("llm", options.llm, start_timeout_s=1800.0))
        )
    coordinator = serve.deployment(CoordinatorReplica, name="coordinator", **common).options(
        ray_actor_options={"num_cpus": 0.5}, num_replicas=1, graceful_shutdown_timeout_s=60.0
    )
    own = replica("coordinator", _channels(options) | options.coordinator, port=options.port)
    return coordinator.bind(own, roles, *parts)


def _channels(options: Options) -> dict[str, str]:
    """The coordinator's settings by which it calls the others."""
    return {f"{role}_channel.{name}": value for role in ("vision", "llm") for name, value in options.security.items()}


def _security(settings: Mapping[str, str]) -> ChannelSecurity:
    """Raises MaifsError, INVALID_CONFIG, for settings that there are not."""
    return load_config(ChannelSecurity, "security", environ={}, overrides=dict(settings))
