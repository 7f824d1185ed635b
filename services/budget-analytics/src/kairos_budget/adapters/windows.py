"""What rolling periods have settled, by bucket."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.domain.book import Book
from kairos_budget.domain.rolling import Window

# Buckets change only while their period is locked, so they need no lock of their own.
_LOAD = text(
    "SELECT period_id, starts_at, settled_nano FROM period_buckets"
    " WHERE period_id = ANY(CAST(:ids AS uuid[]))"
)
_UPSERT = text("""
INSERT INTO period_buckets (period_id, starts_at, organisation_id, settled_nano)
SELECT * FROM unnest(
    CAST(:periods AS uuid[]), CAST(:starts AS timestamptz[]), CAST(:organisations AS uuid[]),
    CAST(:amounts AS bigint[])
)
ON CONFLICT (period_id, starts_at) DO UPDATE SET settled_nano = excluded.settled_nano
    WHERE period_buckets.settled_nano <> excluded.settled_nano
""")
_DELETE = text("""
DELETE FROM period_buckets WHERE period_id = ANY(CAST(:ids AS uuid[])) AND (period_id, starts_at) NOT IN (
    SELECT * FROM unnest(CAST(:periods AS uuid[]), CAST(:starts AS timestamptz[]))
)
""")


async def amounts_of(session: AsyncSession, period_ids: Collection[UUID]) -> dict[UUID, dict[datetime, int]]:
    found: dict[UUID, dict[datetime, int]] = {period_id: {} for period_id in period_ids}
    for row in await session.execute(_LOAD, {"ids": list(period_ids)}):
        found[row.period_id][row.starts_at] = row.settled_nano
    return found


async def load(session: AsyncSession, book: Book, windows: dict[UUID, Window]) -> None:
    """Open the windows of periods just locked: what has left them is available again."""
    amounts = await amounts_of(session, windows)
    for period_id, window in windows.items():
        book.open_window(period_id, replace(window, amounts=amounts[period_id]))


async def save(session: AsyncSession, book: Book) -> None:
    changed = {each: book.windows[each] for each in sorted(book.changed_periods & book.windows.keys())}
    if not changed:
        return
    rows = [
        (period_id, starts_at, book.periods[period_id].budget.organisation_id, amount)
        for period_id, window in changed.items()
        for starts_at, amount in sorted(window.amounts.items())
        if amount
    ]
    given = {"periods": [row[0] for row in rows], "starts": [row[1] for row in rows]}
    amounts = {"organisations": [row[2] for row in rows], "amounts": [row[3] for row in rows]}
    await session.execute(_UPSERT, given | amounts)
    await session.execute(_DELETE, {"ids": list(changed), **given})
