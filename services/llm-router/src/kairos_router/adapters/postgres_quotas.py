"""Quotas as they are stored. Every change is audited and told to all routers in its own transaction."""

from dataclasses import asdict
from typing import Any
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.exc import IntegrityError

from kairos_contracts.audit import AuditContext
from kairos_contracts.llm.v1 import QuotaChangedV1
from kairos_persistence import Database, UnitOfWork
from kairos_router.application.quota_ports import QuotaExists, QuotaNotFound
from kairos_router.domain.quota import Metric, Quota, QuotaScope, Window

_COLUMNS = "quota_id, organisation_id, scope, scope_id, metric, limit_units, quota_window"
_ALL = text(f"SELECT {_COLUMNS} FROM quotas")  # noqa: S608 - a constant
_PAGE = text(
    f"SELECT {_COLUMNS} FROM quotas"  # noqa: S608 - constants
    " WHERE quota_id > :after ORDER BY quota_id LIMIT :limit"
)
_ONE = text(f"SELECT {_COLUMNS} FROM quotas WHERE quota_id = :quota_id FOR UPDATE")  # noqa: S608 - a constant
_INSERT = text(
    f"INSERT INTO quotas ({_COLUMNS}) VALUES"  # noqa: S608 - constants
    " (:quota_id, :organisation_id, :scope, :scope_id, :metric, :limit_units, :quota_window)"
)
_UPDATE = text("UPDATE quotas SET limit_units = :limit_units, updated_at = now() WHERE quota_id = :quota_id")
_DELETE = text("DELETE FROM quotas WHERE quota_id = :quota_id")
_FIRST = UUID(int=0)


def _quota(row: RowMapping) -> Quota:
    return Quota(
        quota_id=row["quota_id"],
        organisation_id=row["organisation_id"],
        scope=QuotaScope(row["scope"]),
        scope_id=row["scope_id"],
        metric=Metric(row["metric"]),
        limit=row["limit_units"],
        window=Window(row["quota_window"]) if row["quota_window"] else None,
    )


def _told(quota: Quota) -> dict[str, Any]:
    return {name: None if value is None else str(value) for name, value in asdict(quota).items()}


class PostgresQuotas:
    """See QuotaStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> dict[UUID, tuple[Quota, ...]]:
        async with self._database.system_unit_of_work() as unit:
            rows = (await unit.session.execute(_ALL)).mappings().all()
        found: dict[UUID, list[Quota]] = {}
        for row in rows:
            found.setdefault(row["organisation_id"], []).append(_quota(row))
        return {organisation_id: tuple(quotas) for organisation_id, quotas in found.items()}

    async def of(self, organisation_id: UUID) -> tuple[Quota, ...]:
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = (await unit.session.execute(_ALL)).mappings().all()
        return tuple(_quota(row) for row in rows)

    async def page(self, organisation_id: UUID, after: UUID | None, limit: int) -> list[Quota]:
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = await unit.session.execute(_PAGE, {"after": after or _FIRST, "limit": limit})
            return [_quota(row) for row in rows.mappings()]

    async def create(self, quota: Quota, context: AuditContext) -> None:
        """Raises QuotaExists."""
        values = {
            "quota_id": quota.quota_id,
            "organisation_id": quota.organisation_id,
            "scope": quota.scope.value,
            "scope_id": quota.scope_id,
            "metric": quota.metric.value,
            "limit_units": quota.limit,
            "quota_window": quota.window.value if quota.window else None,
        }
        async with self._database.unit_of_work(quota.organisation_id) as unit:
            try:
                await unit.session.execute(_INSERT, values)
            except IntegrityError as error:
                raise QuotaExists from error
            _tell(
                unit, context.entry("quota.created", str(quota.quota_id), after=_told(quota)), quota.quota_id
            )

    async def set_limit(
        self, organisation_id: UUID, quota_id: UUID, limit: int, context: AuditContext
    ) -> Quota:
        """Raises QuotaNotFound."""
        async with self._database.unit_of_work(organisation_id) as unit:
            before = await _one(unit, quota_id)
            await unit.session.execute(_UPDATE, {"quota_id": quota_id, "limit_units": limit})
            after = await _one(unit, quota_id)
            entry = context.entry("quota.updated", str(quota_id), before=_told(before), after=_told(after))
            _tell(unit, entry, quota_id)
        return after

    async def delete(self, organisation_id: UUID, quota_id: UUID, context: AuditContext) -> None:
        """Raises QuotaNotFound."""
        async with self._database.unit_of_work(organisation_id) as unit:
            before = await _one(unit, quota_id)
            await unit.session.execute(_DELETE, {"quota_id": quota_id})
            _tell(unit, context.entry("quota.deleted", str(quota_id), before=_told(before)), quota_id)


async def _one(unit: UnitOfWork, quota_id: UUID) -> Quota:
    row = (await unit.session.execute(_ONE, {"quota_id": quota_id})).mappings().first()
    if row is None:
        raise QuotaNotFound(str(quota_id))
    return _quota(row)


def _tell(unit: UnitOfWork, entry: Any, quota_id: UUID) -> None:
    unit.emit(entry)
    unit.emit(QuotaChangedV1(quota_id=quota_id))
