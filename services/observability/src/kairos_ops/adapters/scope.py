from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kairos_ops.domain.feed import Audience
from kairos_persistence import Database, UnitOfWork


@asynccontextmanager
async def scoped(database: Database, audience: Audience) -> AsyncIterator[UnitOfWork]:
    """A transaction that sees what the audience may see.

    Rows of the installation have no organisation and no tenant scope shows them; an admin's queries
    therefore run in system scope and name the organisation themselves.
    """
    if audience.installation:
        async with database.system_unit_of_work() as unit:
            yield unit
    else:
        async with database.unit_of_work(audience.organisation_id) as unit:
            yield unit
