"""The domain into rows: one statement per table, however much changed."""

import json
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.adapters import windows
from kairos_budget.adapters.bulk import columns, insert, names, parameters, unnest, write
from kairos_budget.adapters.rollups import add_rollup
from kairos_budget.application.ports import Claim
from kairos_budget.application.rollup import Rollup
from kairos_budget.domain.attempt import Attempt, Outcome
from kairos_budget.domain.book import Book
from kairos_budget.domain.lease import OpenHold

_PERIOD = columns(
    id="uuid",
    limit_nano="bigint",
    available_nano="bigint",
    leased_nano="bigint",
    settled_nano="bigint",
    suspense_nano="bigint",
    excess_nano="bigint",
    overspend_nano="bigint",
    announced="text",
)
_UPDATE_PERIODS = text(f"""
UPDATE budget_periods p SET limit_nano = given.limit_nano, available_nano = given.available_nano,
    leased_nano = given.leased_nano, settled_nano = given.settled_nano, suspense_nano = given.suspense_nano,
    excess_nano = given.excess_nano, overspend_nano = given.overspend_nano,
    announced = CAST(given.announced AS smallint[]), opened = true, version = p.version + 1,
    updated_at = clock_timestamp()
FROM unnest({unnest(_PERIOD)}) AS given ({names(_PERIOD)}) WHERE p.id = given.id
""")  # noqa: S608 - composed of constants

# In the order of ScopeChain.ids.
_CHAIN = columns(
    organisation_id="uuid",
    project_id="uuid",
    bot_id="uuid",
    team_id="uuid",
    contact_id="uuid",
    api_key_id="uuid",
    model_id="uuid",
)
_LEASE = (
    columns(id="uuid")
    + _CHAIN
    + columns(
        holder="text",
        epoch="integer",
        state="text",
        granted_nano="bigint",
        grants="integer",
        accounted_nano="bigint",
        expected_nano="bigint",
        reported_settled_nano="bigint",
        reported_open_nano="bigint",
        expires_at="timestamptz",
        suspend_after="timestamptz",
        priority="text",
        index_version="bigint",
        returned_nano="bigint",
        open_holds="jsonb",
    )
)
_UPSERT_LEASES = insert(
    "leases",
    _LEASE,
    "ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, state = excluded.state,"
    " granted_nano = excluded.granted_nano, grants = excluded.grants,"
    " accounted_nano = excluded.accounted_nano, expected_nano = excluded.expected_nano,"
    " reported_settled_nano = excluded.reported_settled_nano,"
    " reported_open_nano = excluded.reported_open_nano, expires_at = excluded.expires_at,"
    " suspend_after = excluded.suspend_after, index_version = excluded.index_version,"
    " returned_nano = excluded.returned_nano, open_holds = excluded.open_holds,"
    " updated_at = clock_timestamp()",
)
_ALLOCATION = columns(
    lease_id="uuid", period_id="uuid", organisation_id="uuid", leased_nano="bigint", suspense_nano="bigint"
)
_UPSERT_ALLOCATIONS = insert(
    "lease_allocations",
    _ALLOCATION,
    "ON CONFLICT (lease_id, period_id) DO UPDATE"
    " SET leased_nano = excluded.leased_nano, suspense_nano = excluded.suspense_nano",
)
_TRANSFER = columns(
    idempotency_key="uuid",
    organisation_id="uuid",
    budget_id="uuid",
    period_id="uuid",
    kind="text",
    source="text",
    target="text",
    amount_nano="bigint",
    lease_id="uuid",
    attempt_id="uuid",
    posting_id="uuid",
    adjustment_id="uuid",
)
_INSERT_TRANSFERS = insert("transfers", _TRANSFER)
_ATTEMPT = (
    columns(id="uuid")
    + _CHAIN
    + columns(
        lease_id="uuid",
        outcome="text",
        resolved_by="text",
        hold_nano="bigint",
        cost_nano="bigint",
        model="text",
        input_tokens="bigint",
        output_tokens="bigint",
        price_version="text",
        started_at="timestamptz",
        series_id="uuid",
        posting_id="uuid",
    )
)
_CLAIM_ATTEMPTS = text(f"""
WITH claimed AS (
    INSERT INTO attempts ({names(_ATTEMPT)}) SELECT {names(_ATTEMPT)}
    FROM unnest({unnest(_ATTEMPT)}) WITH ORDINALITY AS given ({names(_ATTEMPT)}, position) ORDER BY position
    ON CONFLICT (id) DO NOTHING RETURNING id
)
SELECT CASE WHEN count(*) < :all THEN coalesce(array_agg(id), '{{}}') END AS some FROM claimed
""")  # noqa: S608 - composed of constants
_POSTING = columns(
    id="uuid",
    organisation_id="uuid",
    lease_id="uuid",
    period_ids="text",
    attempts="integer",
    cost_nano="bigint",
)
_INSERT_POSTINGS = text(f"""
INSERT INTO postings ({names(_POSTING)})
SELECT id, organisation_id, lease_id, CAST(period_ids AS uuid[]), attempts, cost_nano
FROM unnest({unnest(_POSTING)}) AS given ({names(_POSTING)})
""")  # noqa: S608 - composed of constants
# Only an unknown attempt changes, once; a settled or released one is a fact.
_UPSERT_ATTEMPTS = insert(
    "attempts",
    _ATTEMPT,
    "ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, resolved_by = excluded.resolved_by,"
    " cost_nano = excluded.cost_nano, input_tokens = excluded.input_tokens,"
    " output_tokens = excluded.output_tokens, price_version = excluded.price_version"
    " WHERE attempts.outcome = 'unknown'",
)
_HOLD = columns(
    attempt_id="uuid", period_id="uuid", organisation_id="uuid", lease_id="uuid", amount_nano="bigint"
)
_INSERT_HOLDS = insert("attempt_holds", _HOLD)
_DELETE_HOLDS = text("DELETE FROM attempt_holds WHERE attempt_id = ANY(CAST(:ids AS uuid[]))")


async def save(session: AsyncSession, book: Book) -> None:
    await _save_periods(session, book)
    await _save_leases(session, book)
    await _save_attempts(session, book)
    transfers = [
        (
            each.key,
            each.organisation_id,
            each.budget_id,
            each.period_id,
            each.kind.value,
            each.movement.source.value,
            each.movement.target.value,
            each.movement.amount,
            each.lease_id,
            each.attempt_id,
            each.posting_id,
            each.adjustment_id,
        )
        for each in book.transfers
    ]
    await write(session, _INSERT_TRANSFERS, _TRANSFER, transfers)
    await _save_postings(session, book)
    if book.spend:
        rollup = Rollup()
        rollup.change(book.spend)
        # An attempt that only the provider reported is the first of its series.
        rollup.know(each.own_series() for each in book.attempts.values() if each.series_id is None)
        await add_rollup(session, rollup)


async def _save_postings(session: AsyncSession, book: Book) -> None:
    rows = [
        (
            posting.id,
            posting.organisation_id,
            posting.lease_id,
            "{" + ",".join(map(str, periods)) + "}",
            len(posting.costs),
            posting.cost,
        )
        for posting, periods in book.postings
    ]
    await write(session, _INSERT_POSTINGS, _POSTING, rows)


async def _save_periods(session: AsyncSession, book: Book) -> None:
    periods = [book.periods[period_id] for period_id in sorted(book.changed_periods)]
    rows = [
        (each.id, *each.balances.as_tuple(), "{" + ",".join(map(str, each.announced)) + "}")
        for each in periods
    ]
    await write(session, _UPDATE_PERIODS, _PERIOD, rows)
    await windows.save(session, book)


async def _save_leases(session: AsyncSession, book: Book) -> None:
    leases = [book.leases[lease_id] for lease_id in sorted(book.changed_leases)]
    rows = [
        (
            each.id,
            *each.chain.ids(),
            each.holder,
            each.epoch,
            each.state.value,
            each.granted,
            each.grants,
            each.accounted,
            each.expected,
            each.reported_settled,
            each.reported_open,
            each.expires_at,
            each.suspend_after,
            each.priority.value if each.priority else None,
            each.index_version,
            each.returned,
            _holds(each.open_holds),
        )
        for each in leases
    ]
    await write(session, _UPSERT_LEASES, _LEASE, rows)
    allocations = [
        (lease.id, each.period_id, lease.chain.organisation_id, each.leased, each.suspense)
        for lease in leases
        for each in lease.allocations
    ]
    await write(session, _UPSERT_ALLOCATIONS, _ALLOCATION, allocations)


def _holds(holds: Sequence[OpenHold]) -> str:
    return json.dumps(
        [
            {
                "attempt_id": str(hold.attempt_id),
                "amount": hold.amount,
                "since": hold.since.isoformat(),
                "model": hold.model,
            }
            for hold in holds
        ]
    )


async def _save_attempts(session: AsyncSession, book: Book) -> None:
    attempts = [book.attempts[attempt_id] for attempt_id in sorted(book.changed_attempts)]
    rows = [_attempt_row(each, None) for each in attempts]
    await write(session, _UPSERT_ATTEMPTS, _ATTEMPT, rows)
    holds = [
        (each.id, hold.period_id, each.chain.organisation_id, each.lease_id, hold.amount)
        for each in attempts
        for hold in each.holds
    ]
    await write(session, _INSERT_HOLDS, _HOLD, holds)
    resolved = [each.id for each in attempts if each.outcome is not Outcome.UNKNOWN and each.hold]
    if resolved:
        await session.execute(_DELETE_HOLDS, {"ids": resolved})


def _attempt_row(each: Attempt, posting_id: UUID | None) -> tuple[object, ...]:
    return (
        each.id,
        *each.chain.ids(),
        each.lease_id,
        each.outcome.value,
        each.resolved_by.value,
        each.hold,
        each.cost,
        each.model,
        each.input_tokens,
        each.output_tokens,
        each.price_version,
        each.started_at,
        each.series_id,
        posting_id,
    )


async def claim_attempts(session: AsyncSession, claims: Sequence[Claim]) -> set[UUID]:
    # In id order: two transactions that claim the same attempts wait for each other, never in a circle.
    rows = [
        _attempt_row(claim.attempt, claim.posting_id)
        for claim in sorted(claims, key=lambda each: each.attempt.id.int)
    ]
    if not rows:
        return set()
    given = parameters(_ATTEMPT, rows) | {"all": len(rows)}
    some: list[UUID] | None = (await session.execute(_CLAIM_ATTEMPTS, given)).scalar_one()
    return {claim.attempt.id for claim in claims} if some is None else set(some)
