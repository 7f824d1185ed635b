"""The lists people and the console read, on PostgreSQL."""

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import (
    ColumnElement,
    Executable,
    String,
    and_,
    cast,
    func,
    literal,
    or_,
    select,
    text,
    tuple_,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import col

from kairos_budget.adapters import forecasts
from kairos_budget.adapters.current import current_readings
from kairos_budget.adapters.loading import chain_of, hold_of
from kairos_budget.adapters.tables import (
    AllocationRow,
    AttemptHoldRow,
    AttemptRow,
    BudgetRow,
    DayRow,
    LeaseRow,
    SeriesRow,
    TransferRow,
)
from kairos_budget.application.readings import (
    BadPosition,
    BudgetReading,
    GroupBy,
    HoldReading,
    LeaseReading,
    ScopeIndex,
    Slice,
    SpendReading,
    SuspenseReading,
    TransferReading,
)
from kairos_budget.domain.budget import Scope
from kairos_budget.domain.forecast import Sample
from kairos_persistence import Database

T = TypeVar("T")
Position = dict[str, Any]

_NO_KEY: Final = ""
# One statement reads one snapshot, so the scopes are those of exactly this version.
_INDEX: Final = text("""
SELECT i.version, b.scope, b.scope_id,
    coalesce(bool_or(b.reserve_normal > 0 OR b.reserve_interactive > 0), false) AS reserves
FROM scope_indexes i
LEFT JOIN budgets b ON b.organisation_id = i.organisation_id AND b.active
WHERE i.organisation_id = :organisation_id
GROUP BY i.version, b.scope, b.scope_id
""")


def _page(
    rows: Sequence[Any], part: Slice, position: Callable[[Any], Position]
) -> tuple[Sequence[Any], Position | None]:
    """Cut the one row that was fetched to see whether there are more."""
    if len(rows) <= part.limit:
        return rows, None
    kept = rows[: part.limit]
    return kept, position(kept[-1])


def _older_than(part: Slice, created_at: Any, row_id: Any) -> ColumnElement[bool]:
    if part.after is None:
        return literal(True)
    try:
        moment, identity = datetime.fromisoformat(part.after["at"]), UUID(part.after["id"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadPosition from error
    return tuple_(created_at, row_id) < tuple_(literal(moment), literal(identity))


def _number(position: Position) -> int:
    sequence = position.get("sequence")
    if not isinstance(sequence, int):
        raise BadPosition
    return sequence


def _newest(row: Any) -> Position:
    return {"at": row.created_at.isoformat(), "id": str(row.id)}


class PostgresReadings:
    """See application.readings.Readings. Row level security limits every query to the organisation."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def budgets(
        self, organisation_id: UUID, part: Slice, *, active: bool | None, scope: str | None
    ) -> tuple[Sequence[BudgetReading], Position | None]:
        created, identity = col(BudgetRow.created_at), col(BudgetRow.id)
        query = select(BudgetRow).where(_older_than(part, created, identity))
        if active is not None:
            query = query.where(col(BudgetRow.active) == active)
        if scope is not None:
            query = query.where(col(BudgetRow.scope) == scope)
        query = query.order_by(created.desc(), identity.desc()).limit(part.limit + 1)
        async with self._database.unit_of_work(organisation_id) as unit:
            found = (await unit.session.execute(query)).scalars().all()
            rows, following = _page(found, part, _newest)
            return await current_readings(unit.session, rows), following

    async def budget(self, organisation_id: UUID, budget_id: UUID) -> BudgetReading | None:
        query = select(BudgetRow).where(col(BudgetRow.id) == budget_id)
        async with self._database.unit_of_work(organisation_id) as unit:
            found = (await unit.session.execute(query)).scalars().all()
            return next(iter(await current_readings(unit.session, found)), None)

    async def leases(
        self, organisation_id: UUID, part: Slice, *, state: str | None
    ) -> tuple[Sequence[LeaseReading], Position | None]:
        created, identity = col(LeaseRow.created_at), col(LeaseRow.id)
        held = func.max(col(AllocationRow.leased_nano) + col(AllocationRow.suspense_nano))
        mine = col(AllocationRow.lease_id) == identity
        query = select(
            LeaseRow, select(held).where(mine).correlate(LeaseRow).scalar_subquery().label("held")
        ).where(_older_than(part, created, identity))
        if state is not None:
            query = query.where(col(LeaseRow.state) == state)
        query = query.order_by(created.desc(), identity.desc()).limit(part.limit + 1)
        rows, following = _page(
            await self._rows(organisation_id, query), part, lambda row: _newest(row.LeaseRow)
        )
        return [_lease_reading(row.LeaseRow, row.held) for row in rows], following

    async def open_holds(
        self, organisation_id: UUID, part: Slice
    ) -> tuple[Sequence[HoldReading], Position | None]:
        """Oldest lease first; a page holds the holds of up to `limit` leases."""
        created, identity = col(LeaseRow.created_at), col(LeaseRow.id)
        query = (
            select(LeaseRow)
            .where(col(LeaseRow.open_holds) != literal([], JSONB))
            .where(col(LeaseRow.state) != "closed", _older_than(part, created, identity))
            .order_by(created.desc(), identity.desc())
            .limit(part.limit + 1)
        )
        found = [row.LeaseRow for row in await self._rows(organisation_id, query)]
        rows, following = _page(found, part, _newest)
        return [reading for row in rows for reading in _hold_readings(row)], following

    async def scope_index(self, organisation_id: UUID) -> ScopeIndex:
        async with self._database.unit_of_work(organisation_id) as unit:
            rows = (await unit.session.execute(_INDEX, {"organisation_id": organisation_id})).all()
        version = rows[0].version if rows else 0
        scopes = [(Scope(row.scope), row.scope_id, row.reserves) for row in rows if row.scope]
        return ScopeIndex(version, tuple(scopes))

    async def suspense(
        self, organisation_id: UUID, part: Slice
    ) -> tuple[Sequence[SuspenseReading], Position | None]:
        unreported = (
            select(func.max(col(AllocationRow.suspense_nano)))
            .where(col(AllocationRow.lease_id) == col(LeaseRow.id))
            .correlate(LeaseRow)
            .scalar_subquery()
        )
        holds = (
            select(
                col(AttemptHoldRow.lease_id).label("lease_id"),
                col(AttemptHoldRow.attempt_id).label("attempt_id"),
                func.max(col(AttemptHoldRow.amount_nano)).label("amount"),
            )
            .group_by(col(AttemptHoldRow.lease_id), col(AttemptHoldRow.attempt_id))
            .subquery()
        )
        unknown = (
            select(
                holds.c.lease_id,
                func.sum(holds.c.amount).label("amount"),
                func.array_agg(holds.c.attempt_id).label("attempts"),
            )
            .group_by(holds.c.lease_id)
            .subquery()
        )
        suspended = select(col(AllocationRow.lease_id)).where(col(AllocationRow.suspense_nano) > 0)
        query = (
            select(
                LeaseRow,
                func.coalesce(unreported, 0).label("unreported"),
                func.coalesce(unknown.c.amount, 0).label("unknown"),
                unknown.c.attempts,
            )
            .outerjoin(unknown, unknown.c.lease_id == col(LeaseRow.id))
            .where(col(LeaseRow.id).in_(suspended) | unknown.c.amount.is_not(None))
            .where(_older_than(part, col(LeaseRow.created_at), col(LeaseRow.id)))
            .order_by(col(LeaseRow.created_at).desc(), col(LeaseRow.id).desc())
            .limit(part.limit + 1)
        )
        rows, following = _page(
            await self._rows(organisation_id, query), part, lambda row: _newest(row.LeaseRow)
        )
        return [_suspense_reading(row) for row in rows], following

    async def transfers(
        self,
        organisation_id: UUID,
        part: Slice,
        *,
        budget_id: UUID | None,
        lease_id: UUID | None,
        attempt_id: UUID | None,
    ) -> tuple[Sequence[TransferReading], Position | None]:
        sequence = col(TransferRow.sequence)
        query = select(TransferRow).where(col(TransferRow.organisation_id) == organisation_id)
        for column, wanted in (
            (col(TransferRow.budget_id), budget_id),
            (col(TransferRow.lease_id), lease_id),
        ):
            if wanted is not None:
                query = query.where(column == wanted)
        if attempt_id is not None:
            # Its own transfers, and those that moved its cost together with others'.
            posting = select(col(AttemptRow.posting_id)).where(col(AttemptRow.id) == attempt_id)
            query = query.where(
                or_(
                    col(TransferRow.attempt_id) == attempt_id,
                    col(TransferRow.posting_id) == posting.scalar_subquery(),
                )
            )
        if part.after is not None:
            query = query.where(sequence < _number(part.after))
        query = query.order_by(sequence.desc()).limit(part.limit + 1)
        rows = [row.TransferRow for row in await self._rows(organisation_id, query)]
        kept, following = _page(rows, part, lambda row: {"sequence": row.sequence})
        return [_transfer_reading(row) for row in kept], following

    async def spend(
        self, organisation_id: UUID, part: Slice, *, group_by: GroupBy, since: date, until: date
    ) -> tuple[Sequence[SpendReading], Position | None]:
        key = _spend_key(group_by).label("key")
        sums = (
            func.sum(col(DayRow.cost_nano)).label("cost"),
            func.sum(col(DayRow.attempts)).label("attempts"),
            func.sum(col(DayRow.unknown_attempts)).label("unknown"),
            func.sum(col(DayRow.input_tokens)).label("input"),
            func.sum(col(DayRow.output_tokens)).label("output"),
        )
        query = (
            select(key, *sums)
            .join(SeriesRow, col(SeriesRow.id) == col(DayRow.series_id))
            .where(
                and_(
                    col(DayRow.organisation_id) == organisation_id,
                    col(DayRow.starts_at) >= datetime.combine(since, time(), UTC),
                    col(DayRow.starts_at) < datetime.combine(until, time(), UTC),
                )
            )
            .group_by(key)
            .order_by(key)
            .limit(part.limit + 1)
        )
        if part.after is not None:
            query = query.having(key > str(part.after.get("key", "")))
        rows = await self._rows(organisation_id, query)
        kept, following = _page(rows, part, lambda row: {"key": row.key})
        return [_spend_reading(row) for row in kept], following

    async def sample_before(self, organisation_id: UUID, reading: BudgetReading) -> Sample:
        budget, starts_at = reading.budget, reading.bounds.starts_at
        async with self._database.unit_of_work(organisation_id) as unit:
            found = await forecasts.sample_before(unit.session, budget.id, starts_at)
        return found or Sample(max(starts_at, budget.created_at), 0)

    async def count_open_leases(self) -> int:
        async with self._database.system_unit_of_work() as unit:
            query = select(func.count()).select_from(LeaseRow).where(col(LeaseRow.state) == "open")
            return int((await unit.session.execute(query)).scalar_one())

    async def _rows(self, organisation_id: UUID, query: Executable) -> Sequence[Any]:
        async with self._database.unit_of_work(organisation_id) as unit:
            return list(await unit.session.execute(query))


def _lease_reading(row: LeaseRow, held: int | None) -> LeaseReading:
    return LeaseReading(
        lease_id=row.id,
        holder=row.holder,
        state=row.state,
        epoch=row.epoch,
        chain=chain_of(row),
        priority=row.priority,
        granted_nano=row.granted_nano,
        held_nano=held or 0,
        accounted_nano=row.accounted_nano,
        reported_settled_nano=row.reported_settled_nano,
        reported_open_nano=row.reported_open_nano,
        returned_nano=row.returned_nano,
        unlimited=held is None,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _hold_readings(row: LeaseRow) -> list[HoldReading]:
    return [
        HoldReading(
            attempt_id=hold.attempt_id,
            lease_id=row.id,
            holder=row.holder,
            lease_state=row.state,
            model=hold.model,
            amount_nano=hold.amount,
            since=hold.since,
            reported_at=row.updated_at,
            expires_at=row.expires_at,
        )
        for hold in map(hold_of, row.open_holds)
    ]


def _suspense_reading(row: Any) -> SuspenseReading:
    lease: LeaseRow = row.LeaseRow
    return SuspenseReading(
        lease_id=lease.id,
        holder=lease.holder,
        unreported_nano=int(row.unreported),
        unknown_nano=int(row.unknown),
        unknown_attempts=tuple(sorted(row.attempts or ())),
        since=lease.updated_at,
    )


def _transfer_reading(row: TransferRow) -> TransferReading:
    return TransferReading(
        sequence=row.sequence,
        kind=row.kind,
        budget_id=row.budget_id,
        period_id=row.period_id,
        source=row.source,
        target=row.target,
        amount_nano=row.amount_nano,
        lease_id=row.lease_id,
        attempt_id=row.attempt_id,
        posting_id=row.posting_id,
        created_at=row.created_at,
    )


def _spend_key(group_by: GroupBy) -> Any:
    """Text that sorts; empty for spend without a bot or project."""
    if group_by == "model":
        return col(SeriesRow.model)
    if group_by == "day":
        return func.to_char(func.timezone("UTC", col(DayRow.starts_at)), "YYYY-MM-DD")
    column = col(SeriesRow.bot_id) if group_by == "bot" else col(SeriesRow.project_id)
    return func.coalesce(cast(column, String), _NO_KEY)


def _spend_reading(row: Any) -> SpendReading:
    return SpendReading(
        key=row.key or None,
        cost_nano=int(row.cost),
        attempts=int(row.attempts),
        unknown_attempts=int(row.unknown),
        input_tokens=int(row.input),
        output_tokens=int(row.output),
    )
