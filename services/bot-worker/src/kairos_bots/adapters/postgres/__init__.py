"""Bots, conversations, turns and replies in PostgreSQL."""

from kairos_bots.adapters.postgres.work import PostgresWorks

__all__ = ["PostgresWorks"]
