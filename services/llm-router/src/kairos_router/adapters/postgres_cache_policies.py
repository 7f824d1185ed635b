"""Cache policies as they are stored. Every change is audited and told in its own transaction."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text

from kairos_contracts.audit import AuditContext
from kairos_contracts.llm.v1 import CacheTtlChangedV1
from kairos_persistence import Database, UnitOfWork
from kairos_router.domain.cache_policy import EVERY_ROUTE, CachePolicy, Mode, SharedBy

_COLUMNS = "organisation_id, route, mode, ttl_seconds, shared_by, semantic, similarity, generation"
_ALL = text(f"SELECT {_COLUMNS} FROM cache_policies ORDER BY route")  # noqa: S608 - constants
_ONE = text(f"SELECT {_COLUMNS} FROM cache_policies WHERE route = :route FOR UPDATE")  # noqa: S608 - constants
_PUT = text(
    f"INSERT INTO cache_policies ({_COLUMNS}) VALUES"  # noqa: S608 - constants
    " (:organisation_id, :route, :mode, :ttl_seconds, :shared_by, :semantic, :similarity, :generation)"
    " ON CONFLICT (organisation_id, route) DO UPDATE SET mode = :mode, ttl_seconds = :ttl_seconds,"
    " shared_by = :shared_by, semantic = :semantic, similarity = :similarity, updated_at = now()"
)
_PURGE = text("UPDATE cache_policies SET generation = generation + 1 WHERE route = :route")


def _policy(row: RowMapping) -> CachePolicy:
    values = dict(row)
    return CachePolicy(**values | {"mode": Mode(values["mode"]), "shared_by": SharedBy(values["shared_by"])})


def _told(policy: CachePolicy) -> dict[str, Any]:
    return {name: str(value) for name, value in asdict(policy).items()}


class PostgresCachePolicies:
    """See PolicyStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> dict[UUID, tuple[CachePolicy, ...]]:
        async with self._database.system_unit_of_work() as unit:
            rows = (await unit.session.execute(_ALL)).mappings().all()
        found: dict[UUID, list[CachePolicy]] = {}
        for row in rows:
            found.setdefault(row["organisation_id"], []).append(_policy(row))
        return {organisation_id: tuple(policies) for organisation_id, policies in found.items()}

    async def of(self, organisation_id: UUID) -> Sequence[CachePolicy]:
        async with self._database.unit_of_work(organisation_id) as unit:
            return [_policy(row) for row in (await unit.session.execute(_ALL)).mappings()]

    async def put(self, policy: CachePolicy, context: AuditContext) -> CachePolicy:
        async with self._database.unit_of_work(policy.organisation_id) as unit:
            before = await _one(unit, policy.route)
            await unit.session.execute(_PUT, asdict(policy))
            after = await _one(unit, policy.route) or policy
            entry = context.entry(
                "cache.ttl_changed",
                policy.route,
                before=_told(before) if before else None,
                after=_told(after),
            )
            _tell(unit, entry, after)
        return after

    async def purge(self, organisation_id: UUID, route: str, context: AuditContext) -> CachePolicy:
        async with self._database.unit_of_work(organisation_id) as unit:
            if await _one(unit, route) is None:
                # A route under the organisation's default gets its own row, with what the default says.
                default = await _one(unit, EVERY_ROUTE) or CachePolicy(organisation_id, EVERY_ROUTE)
                await unit.session.execute(_PUT, {**asdict(default), "route": route, "generation": 0})
            await unit.session.execute(_PURGE, {"route": route})
            after = await _one(unit, route) or CachePolicy(organisation_id, route)
            _tell(unit, context.entry("cache.purged", route, after=_told(after)), after)
        return after


async def _one(unit: UnitOfWork, route: str) -> CachePolicy | None:
    row = (await unit.session.execute(_ONE, {"route": route})).mappings().first()
    return None if row is None else _policy(row)


def _tell(unit: UnitOfWork, entry: Any, policy: CachePolicy) -> None:
    unit.emit(entry)
    route = None if policy.route == EVERY_ROUTE else policy.route
    unit.emit(CacheTtlChangedV1(route=route, ttl_seconds=policy.ttl_seconds))
