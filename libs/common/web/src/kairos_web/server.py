"""Serve one application on one event loop."""

import asyncio
import gc
import signal
from collections.abc import Callable
from typing import Final

import uvicorn
from starlette.types import ASGIApp

import kairos_faults
from kairos_telemetry import configure
from kairos_web.bounded_heads import BoundedHeads
from kairos_web.settings import ServiceSettings

# Requests leave few reference cycles, so the collector may look more rarely than every 700 objects.
GARBAGE_THRESHOLDS: Final = (20_000, 20, 20)


def run(
    service: str,
    version: str,
    settings: ServiceSettings,
    build: Callable[[], ASGIApp],
    *,
    http: type[asyncio.Protocol] = BoundedHeads,
) -> None:
    """A service from its settings to its end: telemetry, armed faults, the application, the last spans."""
    telemetry = configure(
        service,
        version=version,
        otlp_endpoint=settings.otlp_endpoint,
        log_level=settings.log_level,
        environment=settings.environment,
    )
    kairos_faults.arm_all(settings.faults)
    try:
        serve(
            build(),
            host=settings.host,
            port=settings.port,
            grace=settings.shutdown_grace_s,
            forwarded_allow_ips=settings.forwarded_allow_ips,
            http=http,
        )
    finally:
        telemetry.shutdown()


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    grace: int = 20,
    forwarded_allow_ips: str = "127.0.0.1",
    http: type[asyncio.Protocol] = BoundedHeads,
) -> None:
    """Run until SIGTERM or SIGINT, then finish open requests for up to `grace` seconds.

    `http` is the connection's protocol.
    Raises SystemExit with a non-zero code when the application did not start.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=http,
        ws="websockets-sansio",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=forwarded_allow_ips,
        timeout_graceful_shutdown=grace,
    )
    server = uvicorn.Server(config)
    # When it has stopped, uvicorn raises the signal that stopped it once more for the handler that was
    # there before. The default one would end the process before its caller can flush the telemetry.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped_already)
    _settle_garbage()
    server.run()
    if not server.started:
        raise SystemExit(3)


def _settle_garbage() -> None:
    # What is there now stays for good. Looked through again and again, it would stop requests for tens of
    # milliseconds at a time.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _stopped_already(_number: int, _frame: object) -> None:
    """The server has stopped in its own time; nothing more is to be done."""
