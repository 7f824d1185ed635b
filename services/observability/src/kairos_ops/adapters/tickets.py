"""Tickets in Redis: short-lived, single use, and worthless to someone who reads the store."""

import hashlib
import json
from datetime import datetime
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from kairos_contracts.permissions import Actor, Permission, Role


class TicketsUnavailable(Exception):  # noqa: N818 - reads as the fact it states
    """The ticket store is away: the caller polls instead and asks again later."""


class RedisTicketStore:
    """Implements TicketStore. Only the hash of a ticket is stored, and taking it deletes it."""

    def __init__(self, redis: "Redis") -> None:
        self._redis = redis

    async def put(self, ticket: str, actor: Actor, issued_at: datetime, life_s: int) -> None:
        value = json.dumps({"actor": _dump(actor), "issued_at": issued_at.isoformat()})
        try:
            await self._redis.set(_key(ticket), value, ex=life_s)
        except (RedisError, OSError) as error:
            raise TicketsUnavailable from error

    async def take(self, ticket: str) -> tuple[Actor, datetime] | None:
        try:
            value = await self._redis.getdel(_key(ticket))
        except (RedisError, OSError) as error:
            raise TicketsUnavailable from error
        if value is None:
            return None
        held = json.loads(value)
        return _load(held["actor"]), datetime.fromisoformat(held["issued_at"])


def _key(ticket: str) -> str:
    return f"ops:ticket:{hashlib.sha256(ticket.encode()).hexdigest()}"


def _dump(actor: Actor) -> dict[str, Any]:
    return {
        "kind": actor.kind,
        "id": actor.id,
        "display": actor.display,
        "organisation_id": str(actor.organisation_id) if actor.organisation_id else None,
        "role": actor.role,
        "scopes": None if actor.scopes is None else sorted(actor.scopes),
        "project_id": str(actor.project_id) if actor.project_id else None,
        "session_id": str(actor.session_id) if actor.session_id else None,
    }


def _load(values: dict[str, Any]) -> Actor:
    return Actor(
        kind=values["kind"],
        id=values["id"],
        display=values["display"],
        organisation_id=_uuid(values["organisation_id"]),
        role=Role(values["role"]) if values["role"] else None,
        scopes=None if values["scopes"] is None else frozenset(map(Permission, values["scopes"])),
        project_id=_uuid(values["project_id"]),
        session_id=_uuid(values["session_id"]),
    )


def _uuid(text: str | None) -> UUID | None:
    return UUID(text) if text else None
