"""The connection pool of one process."""

from typing import Any

from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

CONNECT_TIMEOUT_S = 5
POOL_TIMEOUT_S = 5.0
RECYCLE_S = 1_800
"""Connections are renewed after this time, so that load follows a failover or a new PgBouncer."""


def driver_url(url: str) -> URL:
    """`postgresql://` (what people write) as the URL of the asynchronous psycopg 3 driver."""
    parsed = make_url(url)
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername="postgresql+psycopg")
    return parsed


def create_engine(url: str, *, application_name: str, pool_size: int = 10) -> AsyncEngine:
    """A pool that connects at first use. Statement, lock and idle timeouts belong to the login role.

    There is no ping per checkout: a unit of work opens with a statement that may be repeated, and a
    connection found dead there is replaced once. Prepared statements stay off because PgBouncer in
    transaction mode gives each transaction another server connection.
    """
    arguments: dict[str, Any] = {
        "application_name": application_name,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 15_000,
        "prepare_threshold": None,
    }
    return create_async_engine(
        driver_url(url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_recycle=RECYCLE_S,
        pool_use_lifo=True,
        connect_args=arguments,
        hide_parameters=True,
    )
