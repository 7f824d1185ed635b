"""Health changes of the installation, written by one replica at a time."""

from collections.abc import Sequence
from typing import Literal, cast

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import select

from kairos_contracts.ops.v1 import ServiceHealthChangedV1
from kairos_ops.adapters.tables import ServiceHealthRow
from kairos_ops.domain.health import ServiceState
from kairos_persistence import Database, UnitOfWork

WATCH_LIFE_S = 10
_TAKE_WATCH = text(
    "INSERT INTO watches (name, holder, expires_at)"
    " VALUES ('services', :holder, now() + make_interval(secs => :life))"
    " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at"
    " WHERE watches.holder = excluded.holder OR watches.expires_at < now() RETURNING holder"
)


class PostgresHealthBoard:
    """Implements HealthBoard. `holder` names this replica."""

    def __init__(self, database: Database, holder: str) -> None:
        self._database = database
        self._holder = holder

    async def record(self, states: Sequence[ServiceState]) -> None:
        async with self._database.system_unit_of_work() as unit:
            taken = await unit.session.execute(_TAKE_WATCH, {"holder": self._holder, "life": WATCH_LIFE_S})
            if taken.scalar_one_or_none() is None:
                return
            known = (await unit.session.execute(select(ServiceHealthRow))).scalars()
            healths = {row.service: row.health for row in known}
            for state in states:
                if healths.get(state.service) != state.health:
                    await self._write(unit, state, healths.get(state.service))

    async def _write(self, unit: UnitOfWork, state: ServiceState, before: str | None) -> None:
        values = {"health": state.health, "detail": state.detail, "changed_at": state.since}
        statement = insert(ServiceHealthRow).values(service=state.service, **values)
        await unit.session.execute(statement.on_conflict_do_update(index_elements=["service"], set_=values))
        unit.emit(
            ServiceHealthChangedV1(
                service=state.service,
                from_health=cast("Literal['up', 'degraded', 'down'] | None", before),
                to_health=state.health,
                detail=state.detail,
                observed_at=state.checked_at,
            ),
            organisation_id=None,
        )
