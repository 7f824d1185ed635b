"""The domain into rows: one statement per table, however much changed."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_budget.application.ports import Usage
from kairos_budget.domain.attempt import Outcome
from kairos_budget.domain.book import Book


class Column(NamedTuple):
    name: str
    kind: str


def _unnest(columns: Sequence[Column]) -> str:
    return ", ".join(f"CAST(:{column.name} AS {column.kind}[])" for column in columns)


def _names(columns: Sequence[Column], prefix: str = "") -> str:
    return ", ".join(f"{prefix}{column.name}" for column in columns)


def _columns(**kinds: str) -> tuple[Column, ...]:
    return tuple(Column(name, kind) for name, kind in kinds.items())


def _insert(table: str, columns: Sequence[Column], conflict: str = "") -> TextClause:
    # Rows are written in the order given, so that identities follow it.
    return text(
        f"INSERT INTO {table} ({_names(columns)}) SELECT {_names(columns)}"  # noqa: S608 - constants only
        f" FROM unnest({_unnest(columns)}) WITH ORDINALITY AS given ({_names(columns)}, position)"
        f" ORDER BY position {conflict}"
    )


async def _write(
    session: AsyncSession, statement: TextClause, columns: Sequence[Column], rows: Sequence[tuple[Any, ...]]
) -> None:
    if rows:
        values = zip(*rows, strict=True)
        await session.execute(
            statement, {column.name: list(value) for column, value in zip(columns, values, strict=True)}
        )


_PERIOD = _columns(
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
FROM unnest({_unnest(_PERIOD)}) AS given ({_names(_PERIOD)}) WHERE p.id = given.id
""")  # noqa: S608 - composed of constants

# In the order of ScopeChain.ids.
_CHAIN = _columns(
    organisation_id="uuid",
    project_id="uuid",
    bot_id="uuid",
    team_id="uuid",
    contact_id="uuid",
    api_key_id="uuid",
    model_id="uuid",
)
_LEASE = (
    _columns(id="uuid")
    + _CHAIN
    + _columns(
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
    )
)
_UPSERT_LEASES = _insert(
    "leases",
    _LEASE,
    "ON CONFLICT (id) DO UPDATE SET epoch = excluded.epoch, state = excluded.state,"
    " granted_nano = excluded.granted_nano, grants = excluded.grants,"
    " accounted_nano = excluded.accounted_nano, expected_nano = excluded.expected_nano,"
    " reported_settled_nano = excluded.reported_settled_nano,"
    " reported_open_nano = excluded.reported_open_nano, expires_at = excluded.expires_at,"
    " suspend_after = excluded.suspend_after, updated_at = clock_timestamp()",
)
_ALLOCATION = _columns(
    lease_id="uuid", period_id="uuid", organisation_id="uuid", leased_nano="bigint", suspense_nano="bigint"
)
_UPSERT_ALLOCATIONS = _insert(
    "lease_allocations",
    _ALLOCATION,
    "ON CONFLICT (lease_id, period_id) DO UPDATE"
    " SET leased_nano = excluded.leased_nano, suspense_nano = excluded.suspense_nano",
)
_TRANSFER = _columns(
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
)
_INSERT_TRANSFERS = _insert("transfers", _TRANSFER)
_ATTEMPT = (
    _columns(id="uuid")
    + _CHAIN
    + _columns(
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
    )
)
# Only an unknown attempt changes, once; a settled or released one is a fact.
_UPSERT_ATTEMPTS = _insert(
    "attempts",
    _ATTEMPT,
    "ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, resolved_by = excluded.resolved_by,"
    " cost_nano = excluded.cost_nano, input_tokens = excluded.input_tokens,"
    " output_tokens = excluded.output_tokens, price_version = excluded.price_version"
    " WHERE attempts.outcome = 'unknown'",
)
_HOLD = _columns(
    attempt_id="uuid", period_id="uuid", organisation_id="uuid", lease_id="uuid", amount_nano="bigint"
)
_INSERT_HOLDS = _insert("attempt_holds", _HOLD)
_DELETE_HOLDS = text("DELETE FROM attempt_holds WHERE attempt_id = ANY(CAST(:ids AS uuid[]))")
_SPEND = _columns(
    organisation_id="uuid",
    hour="timestamptz",
    model="text",
    bot_id="uuid",
    project_id="uuid",
    cost_nano="bigint",
    attempts="bigint",
    unknown_attempts="bigint",
    input_tokens="bigint",
    output_tokens="bigint",
)
_ADD_SPEND = _insert(
    "spend_hours",
    _SPEND,
    "ON CONFLICT (organisation_id, hour, model, bot_id, project_id) DO UPDATE SET"
    " cost_nano = spend_hours.cost_nano + excluded.cost_nano,"
    " attempts = spend_hours.attempts + excluded.attempts,"
    " unknown_attempts = spend_hours.unknown_attempts + excluded.unknown_attempts,"
    " input_tokens = spend_hours.input_tokens + excluded.input_tokens,"
    " output_tokens = spend_hours.output_tokens + excluded.output_tokens",
)
_USAGE = _columns(
    attempt_id="uuid",
    organisation_id="uuid",
    completion_id="uuid",
    project_id="uuid",
    bot_id="uuid",
    api_key_id="uuid",
    team_id="uuid",
    contact_id="uuid",
    model="text",
    deployment="text",
    provider="text",
    outcome="text",
    input_tokens="bigint",
    output_tokens="bigint",
    cost_nano="bigint",
    price_version="text",
    status="integer",
    streaming="boolean",
    latency_ms="integer",
    time_to_first_token_ms="integer",  # noqa: S106 - a latency, not a credential
    started_at="timestamptz",
)
_INSERT_USAGE = _insert("usage_records", _USAGE)


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
        )
        for each in book.transfers
    ]
    await _write(session, _INSERT_TRANSFERS, _TRANSFER, transfers)
    spend = [
        (*key, change.cost, change.attempts, change.unknown, change.input_tokens, change.output_tokens)
        for key, change in sorted(book.spend.items(), key=lambda item: repr(item[0]))
    ]
    await _write(session, _ADD_SPEND, _SPEND, spend)


async def _save_periods(session: AsyncSession, book: Book) -> None:
    periods = [book.periods[period_id] for period_id in sorted(book.changed_periods)]
    rows = [
        (each.id, *each.balances.as_tuple(), "{" + ",".join(map(str, each.announced)) + "}")
        for each in periods
    ]
    await _write(session, _UPDATE_PERIODS, _PERIOD, rows)


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
        )
        for each in leases
    ]
    await _write(session, _UPSERT_LEASES, _LEASE, rows)
    allocations = [
        (lease.id, each.period_id, lease.chain.organisation_id, each.leased, each.suspense)
        for lease in leases
        for each in lease.allocations
    ]
    await _write(session, _UPSERT_ALLOCATIONS, _ALLOCATION, allocations)


async def _save_attempts(session: AsyncSession, book: Book) -> None:
    attempts = [book.attempts[attempt_id] for attempt_id in sorted(book.changed_attempts)]
    rows = [
        (
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
        )
        for each in attempts
    ]
    await _write(session, _UPSERT_ATTEMPTS, _ATTEMPT, rows)
    holds = [
        (each.id, hold.period_id, each.chain.organisation_id, each.lease_id, hold.amount)
        for each in attempts
        for hold in each.holds
    ]
    await _write(session, _INSERT_HOLDS, _HOLD, holds)
    resolved = [each.id for each in attempts if each.outcome is not Outcome.UNKNOWN and each.hold]
    if resolved:
        await session.execute(_DELETE_HOLDS, {"ids": resolved})


async def append_usage(session: AsyncSession, usages: Sequence[Usage]) -> None:
    rows = [
        (
            each.message.attempt_id,
            each.organisation_id,
            each.message.completion_id,
            each.message.project_id,
            each.message.bot_id,
            each.message.api_key_id,
            each.message.team_id,
            each.message.contact_id,
            each.message.model,
            each.message.deployment,
            each.message.provider,
            each.message.outcome,
            each.message.input_tokens,
            each.message.output_tokens,
            each.message.cost_nano_usd,
            each.message.price_version,
            each.message.status,
            each.message.streaming,
            each.message.latency_ms,
            each.message.time_to_first_token_ms,
            each.message.started_at,
        )
        for each in usages
    ]
    await _write(session, _INSERT_USAGE, _USAGE, rows)
