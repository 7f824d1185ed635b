"""Serve one application on one event loop."""

import asyncio
import signal
from typing import Literal

import uvicorn
from starlette.types import ASGIApp


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    grace: int = 20,
    forwarded_allow_ips: str = "127.0.0.1",
    http: Literal["httptools"] | type[asyncio.Protocol] = "httptools",
) -> None:
    """Run until SIGTERM or SIGINT, then finish open requests for up to `grace` seconds.

    `http` is the connection's protocol, uvicorn's or a subclass of it.
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
    server.run()
    if not server.started:
        raise SystemExit(3)


def _stopped_already(_number: int, _frame: object) -> None:
    """The server has stopped in its own time; nothing more is to be done."""
