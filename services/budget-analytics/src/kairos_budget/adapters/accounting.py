"""The books on PostgreSQL, recomputed from transfers."""

from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text

from kairos_budget.adapters.loading import BUDGET_COLUMNS, budget_of
from kairos_budget.application.accounting import Selection, SettledPeriod
from kairos_budget.application.readings import BadPosition, Slice
from kairos_budget.domain.calendar import Bounds
from kairos_budget.domain.journal import Balance, Entry, Rate
from kairos_budget.domain.ledger import Account
from kairos_persistence import Database

PART = 5_000
_CHOSEN = """
    t.organisation_id = :organisation
    AND (CAST(:since AS timestamptz) IS NULL OR t.created_at >= CAST(:since AS timestamptz))
    AND (CAST(:until AS timestamptz) IS NULL OR t.created_at < CAST(:until AS timestamptz))
    AND (CAST(:budget AS uuid) IS NULL OR t.budget_id = CAST(:budget AS uuid))
"""
_BALANCES = text(f"""
SELECT m.budget_id, b.name, m.account, sum(m.nano)::bigint AS nano FROM (
    SELECT t.budget_id, t.target AS account, sum(t.amount_nano) AS nano FROM transfers t
    WHERE {_CHOSEN} GROUP BY 1, 2
    UNION ALL
    SELECT t.budget_id, t.source, -sum(t.amount_nano) FROM transfers t WHERE {_CHOSEN} GROUP BY 1, 2
) m JOIN budgets b ON b.id = m.budget_id GROUP BY 1, 2, 3 ORDER BY 2, 1, 3
""")  # noqa: S608 - composed of constants
_ENTRIES = text(f"""
SELECT t.*, b.name, p.starts_at FROM transfers t JOIN budgets b ON b.id = t.budget_id
JOIN budget_periods p ON p.id = t.period_id
WHERE {_CHOSEN} AND t.sequence > :after ORDER BY t.sequence LIMIT :limit
""")  # noqa: S608 - composed of constants
_SETTLED = text(f"""
SELECT p.starts_at, p.ends_at, m.attempts, m.adjusted, {BUDGET_COLUMNS}
FROM budget_periods p JOIN budgets b ON b.id = p.budget_id CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE WHEN t.target = 'settled' THEN t.amount_nano ELSE -t.amount_nano END)
            FILTER (WHERE t.kind IN ('post', 'reconcile')), 0)::bigint AS attempts,
        coalesce(sum(CASE WHEN t.target = 'settled' THEN t.amount_nano ELSE -t.amount_nano END)
            FILTER (WHERE t.kind IN ('correction', 'reversal')), 0)::bigint AS adjusted
    FROM transfers t WHERE t.period_id = p.id AND (t.target = 'settled' OR t.source = 'settled')
) m
WHERE p.organisation_id = :organisation AND p.opened
    AND (CAST(:until AS timestamptz) IS NULL OR p.starts_at < CAST(:until AS timestamptz))
    AND (CAST(:since AS timestamptz) IS NULL OR p.ends_at IS NULL OR p.ends_at > CAST(:since AS timestamptz))
    AND (CAST(:budget AS uuid) IS NULL OR p.budget_id = CAST(:budget AS uuid))
ORDER BY b.name, b.id, p.starts_at LIMIT 1000
""")  # noqa: S608 - composed of constants
_RATES = text("""
SELECT currency, day, per_usd, source FROM fx_rates
WHERE CAST(:currency AS text) IS NULL OR currency = CAST(:currency AS text) ORDER BY currency, day
""")
_KEEP_RATE = text("""
INSERT INTO fx_rates (organisation_id, currency, day, per_usd, source)
VALUES (:organisation, :currency, :day, :per_usd, :source)
ON CONFLICT (organisation_id, currency, day) DO UPDATE
SET per_usd = excluded.per_usd, source = excluded.source, created_at = clock_timestamp()
""")


class PostgresAccounting:
    """See application.accounting.Accounting."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def balances(self, organisation_id: UUID, chosen: Selection) -> Sequence[Balance]:
        rows = await self._rows(organisation_id, _BALANCES, _given(organisation_id, chosen))
        return [Balance(row.budget_id, row.name, Account(row.account), int(row.nano)) for row in rows]

    async def entries(
        self, organisation_id: UUID, part: Slice, chosen: Selection
    ) -> tuple[Sequence[Entry], dict[str, Any] | None]:
        after = 0 if part.after is None else part.after.get("sequence")
        if not isinstance(after, int):
            raise BadPosition
        given = _given(organisation_id, chosen) | {"after": after, "limit": part.limit + 1}
        rows = [_entry(row) for row in await self._rows(organisation_id, _ENTRIES, given)]
        kept = rows[: part.limit]
        return kept, {"sequence": kept[-1].sequence} if len(rows) > part.limit else None

    async def every_entry(self, organisation_id: UUID, chosen: Selection) -> AsyncIterator[Entry]:
        # Each part has a transaction of its own, so that a slow reader holds none open.
        position: dict[str, Any] | None = {"sequence": 0}
        while position is not None:
            entries, position = await self.entries(organisation_id, Slice(PART, position), chosen)
            for entry in entries:
                yield entry

    async def settled_periods(self, organisation_id: UUID, chosen: Selection) -> Sequence[SettledPeriod]:
        rows = await self._rows(organisation_id, _SETTLED, _given(organisation_id, chosen))
        return [
            SettledPeriod(budget_of(row), Bounds(row.starts_at, row.ends_at), row.attempts, row.adjusted)
            for row in rows
        ]

    async def rates(self, organisation_id: UUID, currency: str | None) -> tuple[Rate, ...]:
        rows = await self._rows(organisation_id, _RATES, {"currency": currency})
        return tuple(Rate(row.currency, row.day, row.per_usd, row.source) for row in rows)

    async def keep_rates(self, organisation_id: UUID, rates: Sequence[Rate]) -> None:
        async with self._database.unit_of_work(organisation_id) as unit:
            for rate in sorted(rates, key=lambda each: (each.currency, each.day)):
                await unit.session.execute(
                    _KEEP_RATE,
                    {
                        "organisation": organisation_id,
                        "currency": rate.currency,
                        "day": rate.day,
                        "per_usd": rate.per_usd,
                        "source": rate.source,
                    },
                )

    async def _rows(self, organisation_id: UUID, query: Any, given: dict[str, Any]) -> Sequence[Any]:
        async with self._database.unit_of_work(organisation_id) as unit:
            return list(await unit.session.execute(query, given))


def _given(organisation_id: UUID, chosen: Selection) -> dict[str, Any]:
    return {
        "organisation": organisation_id,
        "since": chosen.since,
        "until": chosen.until,
        "budget": chosen.budget_id,
    }


def _entry(row: Any) -> Entry:
    return Entry(
        sequence=row.sequence,
        at=row.created_at,
        kind=row.kind,
        budget_id=row.budget_id,
        budget=row.name,
        period_start=row.starts_at,
        source=Account(row.source),
        target=Account(row.target),
        amount=row.amount_nano,
        lease_id=row.lease_id,
        attempt_id=row.attempt_id,
        posting_id=row.posting_id,
        adjustment_id=row.adjustment_id,
    )
