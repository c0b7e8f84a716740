"""Keeps a backend's health up to date by its health service's Watch."""

from __future__ import annotations

import asyncio
import logging

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from coordinator.backends.backend import Backend, C, Health
from serving.errors import MaifsError

_log = logging.getLogger(__name__)
_AGAIN_S = 0.5
_SERVING = health_pb2.HealthCheckResponse.SERVING


async def watch(backend: Backend[C]) -> None:
    """Follows a backend until it is cancelled."""
    stub: health_pb2_grpc.HealthAsyncStub = health_pb2_grpc.HealthStub(backend.client.channel)
    while True:
        call = stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=backend.health is Health.UNREACHABLE)
        try:
            async for answer in call:
                if answer.status != _SERVING:
                    backend.set_health(Health.NOT_SERVING)
                    break  # an open Watch would keep a draining server from ending
                await _identify(backend)
                backend.set_health(Health.SERVING)
            else:
                backend.set_health(Health.UNREACHABLE)
        except grpc.aio.AioRpcError:
            backend.set_health(Health.UNREACHABLE)
        finally:
            call.cancel()
        await asyncio.sleep(_AGAIN_S)


async def _identify(backend: Backend[C]) -> None:
    try:
        backend.identity = await backend.client.identify()
    except MaifsError as error:
        backend.identity = ""
        _log.info("backend does not say what it is", extra={"backend": backend.address, "detail": error.message})
