"""Which replica polls for which bot."""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import Table, func, or_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_bots.adapters import tables
from kairos_bots.application.ports import PollerLease

_pollers: Table = tables.pollers
_p = _pollers.c


@dataclass(frozen=True)
class PostgresPollers:
    session: AsyncSession

    async def lead(
        self, bot: UUID, organisation_id: UUID, holder: str, lease: timedelta
    ) -> PollerLease | None:
        until = func.clock_timestamp() + lease
        statement = (
            insert(_pollers)
            .values(bot_id=bot, organisation_id=organisation_id, holder=holder, held_until=until)
            .on_conflict_do_update(
                index_elements=["bot_id"],
                set_={"holder": holder, "held_until": until},
                where=or_(_p.holder == holder, _p.held_until <= func.clock_timestamp()),
            )
            .returning(_p.bot_id, _p.next_offset)
        )
        row = (await self.session.execute(statement)).one_or_none()
        return None if row is None else PollerLease(row.bot_id, row.next_offset)

    async def advance(self, bot: UUID, holder: str, next_offset: int) -> None:
        await self.session.execute(
            update(_pollers).where(_p.bot_id == bot, _p.holder == holder).values(next_offset=next_offset)
        )

    async def release(self, holder: str) -> None:
        await self.session.execute(
            update(_pollers).where(_p.holder == holder).values(held_until=func.clock_timestamp())
        )
