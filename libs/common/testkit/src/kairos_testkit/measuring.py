"""A plugin of coverage: what is nobody's to measure is imported before measuring begins.

Under a tracer, importing takes three times as long, also what is not measured: thirteen seconds instead of
four for bot-worker, most of it the models of the Telegram library. coverage reads its plugins before it
traces, in every process of a run.
"""

import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Final

# What every service imports of others.
_SERVICES: Final = (
    "aio_pika",
    "aiohttp",
    "fastapi",
    "faststream.rabbit",
    "joserfc.jwt",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "prometheus_client",
    "psycopg_pool",
    "pydantic_settings",
    "redis.asyncio",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "sqlmodel",
    "structlog",
    "uvicorn",
)
_TELEGRAM: Final = ("aiogram.types", "aiogram.methods", "aiogram.client.session.aiohttp")
_TESTS: Final = ("alembic.command", "httpx", "openai", "playwright.sync_api")


def imported_first(command: Sequence[str]) -> tuple[str, ...]:
    """The modules a process of this command line imports in any case."""
    program = Path(command[1]).name if len(command) > 1 else ""
    if program == "kairos-bot-worker":
        return _SERVICES + _TELEGRAM
    if program.startswith("kairos-"):
        return _SERVICES
    # How xdist starts a worker, which collects every file of the run.
    return _SERVICES + _TELEGRAM + _TESTS if "sys.stdin.readline" in command[-1] else ()


def coverage_init(_registry: object, _options: object) -> None:
    """Called by coverage before it starts to trace."""
    for module in imported_first(sys.orig_argv):
        with suppress(ImportError):
            import_module(module)
