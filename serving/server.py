"""The life of a service: bind, load, warm up, serve, drain, stop."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from serving.access.access import Access
from serving.access.gate import AccessConfig
from serving.access.tls import TlsConfig
from serving.address import SocketLock, address_faults, socket_path
from serving.around import Around
from serving.channel import MAX_MESSAGE_BYTES
from serving.errors import ExitCode, MaifsError, Reason
from serving.gpu.report import PinReport, current_pin, health_names, publish
from serving.interceptor import ServiceInterceptor
from serving.metrics.config import MetricsConfig
from serving.metrics.listener import Exposition
from serving.metrics.registry import ServiceMetrics
from serving.notify import Notifier, beside
from serving.tracing import TracingConfig, server_span

_log = logging.getLogger(__name__)
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_FAILURE_GRACE_S = 2.0
"""For calls in progress to end with the reason of a failure, and for watchers of health to hear of it."""
_LOOK_AT_PIN_EVERY_S = 60.0


@dataclass(frozen=True)
class ServerConfig:
    """How a service listens."""

    address: str
    """"unix:/absolute/path", or "host:port" with TLS."""
    insecure: bool = False
    """Whether "host:port" on loopback is served without TLS."""
    tls: TlsConfig = field(default_factory=TlsConfig)
    """Certificates of a TCP listener."""
    access: AccessConfig = field(default_factory=AccessConfig)
    """Who may call."""
    drain_grace_s: float = 20.0
    """Seconds that calls in progress have to end after SIGTERM."""
    reflection: bool = True
    """Whether clients may ask for the contracts."""
    log_level: str = "info"
    """"debug", "info", "warning" or "error"."""
    log_style: str = "auto"
    """"text", "json", "journal" (systemd's, with searchable fields), or "auto": text on a terminal, the journal where
    standard error goes there, JSON otherwise."""
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    """Where it shows its metrics."""
    tracing: TracingConfig = field(default_factory=TracingConfig)
    """Where it sends its traces."""

    def faults(self) -> list[str]:
        """See serving.config."""
        found = address_faults(self.address, tls=self.tls.enabled, insecure=self.insecure)
        if self.drain_grace_s < 0:
            found.append(f"drain_grace_s = {self.drain_grace_s}: must be at least 0")
        if self.log_level not in {"debug", "info", "warning", "error"}:
            found.append(f"log_level = {self.log_level!r}: must be debug, info, warning or error")
        if self.log_style not in {"auto", "text", "json", "journal"}:
            found.append(f"log_style = {self.log_style!r}: must be auto, text, json or journal")
        return found


class Service(Protocol):
    """What `serve` runs."""

    @property
    def grpc_names(self) -> Sequence[str]:
        """Full names of the gRPC services, e.g. "maifs.vision.v1.VisionService"."""

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the servicers."""

    async def start(self) -> None:
        """Loads what is needed and passes one real request through it. Raises MaifsError when it cannot serve."""

    async def wait_failed(self) -> MaifsError:
        """Returns only when the service can no longer serve, with the reason."""

    async def stop(self) -> None:
        """Frees what `start` took; called once, also after a failed start."""


@runtime_checkable
class Draining(Protocol):
    """A service with calls that last until something happens."""

    def drain(self) -> None:
        """Ends them. Called at the first signal, before the calls in progress get their grace."""


@runtime_checkable
class Watched(Protocol):
    """A service with parts that can hang while its event loop runs: threads, an engine."""

    async def check_alive(self) -> None:
        """Returns when all parts work; raises MaifsError, or does not return, when one hangs."""


@runtime_checkable
class Measured(Protocol):
    """A service that counts what it does."""

    @property
    def metrics(self) -> ServiceMetrics:
        """Its own metrics, with those that every service has."""


class Pin(Protocol):
    """What keeps the process on its GPUs; see serving.gpu.session."""

    def prove(self) -> PinReport:
        """Last check between a good start and SERVING; raises MaifsError to refuse. Called in a thread."""

    def look(self) -> PinReport:
        """State at this moment. Called in a thread."""


async def serve(
    service: Service, config: ServerConfig, pin: Pin | None = None, access: Access | None = None
) -> ExitCode:
    """Runs a service until SIGTERM, SIGINT or a fatal failure.

    Health is NOT_SERVING until `start` has returned, and again from the first signal on. Calls in progress then have
    `drain_grace_s` seconds.

    Args:
        service: what to run.
        config: where it listens.
        pin: the GPUs that the process has claimed; none when not given.
        access: what guards the listener; made of `config` when not given.

    Returns:
        OK after a signal; the reason's exit code after a failure, which is logged.
    """
    access = access or Access(config.tls, config.access, "service")
    stop_signal = _signal_event()
    path = socket_path(config.address)
    lock = SocketLock(path) if path else None
    notifier = Notifier.from_environment()
    metrics = service.metrics if isinstance(service, Measured) else ServiceMetrics()
    exposition = Exposition(config.metrics, metrics.text)
    interceptors = [Around(metrics.request), Around(server_span), ServiceInterceptor(), access.interceptor]
    server = grpc.aio.server(interceptors=interceptors, options=_server_options())
    health = health_aio.HealthServicer()
    try:
        if lock:
            lock.acquire()
        await exposition.open()
        await _open(server, service, health, config, access)
        async with notifier.starting():
            await _start(service, health, stop_signal, pin)
        if not stop_signal.is_set():
            notifier.ready(_note(pin))
            metrics.serving.set(1)
        check_alive = service.check_alive if isinstance(service, Watched) else _alive
        watching = beside(_watch_pin(pin, health, notifier) if pin else None)
        async with notifier.guarded(check_alive), watching, beside(access.keep_fresh()):
            failure = await _until_over(service, stop_signal)
    except MaifsError as error:
        failure = error
    if failure:
        _log.error("%s", failure, extra={"reason": failure.reason.name})
    metrics.serving.set(0)
    notifier.stopping(str(failure) if failure else "draining", config.drain_grace_s)
    await _set_health(health, service, _NOT_SERVING)
    if isinstance(service, Draining):
        service.drain()
    _log.info("draining", extra={"grace_s": config.drain_grace_s})
    await server.stop(config.drain_grace_s if not failure else min(config.drain_grace_s, _FAILURE_GRACE_S))
    await service.stop()
    await exposition.close()
    if lock:
        lock.release()
    _log.info("stopped")
    return failure.reason.exit_code if failure else ExitCode.OK


def _server_options() -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # with it, two servers share a port without a word
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ]


def _signal_event() -> asyncio.Event:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, event.set)
    return event


async def _open(
    server: grpc.aio.Server,
    service: Service,
    health: health_aio.HealthServicer,
    config: ServerConfig,
    access: Access,
) -> None:
    service.register(server)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await _set_health(health, service, _NOT_SERVING)
    if config.reflection:
        names = (*service.grpc_names, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
    try:
        access.listen(server, config.address)
    except RuntimeError as error:
        raise MaifsError(
            Reason.ADDRESS_IN_USE,
            f"Cannot listen on {config.address}: {error}.",
            "Another process may be using it; choose another address (server.address).",
        ) from error
    path = socket_path(config.address)
    if path:
        path.chmod(0o660)
    await server.start()
    _log.info("listening", extra={"address": config.address, **access.summary})


async def _start(
    service: Service,
    health: health_aio.HealthServicer,
    stop_signal: asyncio.Event,
    pin: Pin | None,
) -> None:
    """Starts the service; a signal during a long load ends it without waiting for the load."""
    starting = asyncio.ensure_future(service.start())
    stopping = asyncio.ensure_future(stop_signal.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    starting.result()
    if pin:
        publish(await asyncio.to_thread(pin.prove))
    await _tell_pin(health)
    await _set_health(health, service, _SERVING)
    _log.info("serving")


async def _alive() -> None:
    """Of a service that is nothing but its event loop: to be called is the proof."""


def _note(pin: Pin | None) -> str:
    return f"GPU pin {current_pin().detail}" if pin else ""


async def _watch_pin(pin: Pin, health: health_aio.HealthServicer, notifier: Notifier) -> None:
    while True:
        await asyncio.sleep(_LOOK_AT_PIN_EVERY_S)
        report = await asyncio.to_thread(pin.look)
        if report != current_pin():
            _log.warning("GPU pin changed", extra={"state": report.state.value, "detail": report.detail})
            publish(report)
            await _tell_pin(health)
            notifier.status(f"serving; {_note(pin)}")


async def _tell_pin(health: health_aio.HealthServicer) -> None:
    for name, holds in health_names().items():
        await health.set(name, _SERVING if holds else _NOT_SERVING)


async def _until_over(service: Service, stop_signal: asyncio.Event) -> MaifsError | None:
    failing = asyncio.ensure_future(service.wait_failed())
    stopping = asyncio.ensure_future(stop_signal.wait())
    await asyncio.wait({failing, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if failing.done():
        return failing.result()
    failing.cancel()
    return None


async def _set_health(health: health_aio.HealthServicer, service: Service, status: int) -> None:
    for name in ("", *service.grpc_names):
        await health.set(name, status)
