"""DDL that migrations share: messaging tables, tenant scope, partitions by day, append-only tables.

Every function takes Alembic's `op` and works in the schema the migrations run in.
"""

from typing import Protocol


class Operations(Protocol):
    """The part of Alembic's `op` used here."""

    def execute(self, sqltext: str) -> object: ...


def create_messaging_tables(op: Operations) -> None:
    """Create outbox and inbox, by day, and the functions the runtime role may call on them."""


def enable_tenant_scope(op: Operations, table: str) -> None:
    """Show and accept rows of the scope's organisation only. The table has `organisation_id uuid`."""


def partition_by_day(op: Operations, table: str, *, keep_days: int | None = None) -> None:
    """Manage the day partitions of a table made with `PARTITION BY RANGE (<timestamptz column>)`."""


def append_only(op: Operations, table: str) -> None:
    """Let the runtime role insert and read, never change or remove."""
