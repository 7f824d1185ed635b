"""The database's clock as one transaction last saw it."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession


@dataclass
class DatabaseClock:
    """Statements that read the clock anyway leave it here, which saves a round trip."""

    session: AsyncSession
    seen: datetime | None = None

    async def now(self) -> datetime:
        if self.seen is None:
            self.seen = (await self.session.execute(select(func.clock_timestamp()))).scalar_one()
        return self.seen
