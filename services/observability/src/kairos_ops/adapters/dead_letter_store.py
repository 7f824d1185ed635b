"""Dead letters on PostgreSQL."""

from dataclasses import asdict
from datetime import datetime
from typing import Literal, cast
from uuid import UUID

from sqlalchemy import or_, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlmodel import col, select
from sqlmodel.sql.expression import SelectOfScalar

from kairos_contracts.auth.v1 import AuditEntryRecordedV1
from kairos_ops.adapters.scope import scoped
from kairos_ops.adapters.tables import DeadLetterRow
from kairos_ops.domain.dead_letter import DeadLetter, DeadLetterNotFound
from kairos_ops.domain.event import Position
from kairos_ops.domain.feed import Audience
from kairos_persistence import Database


class PostgresDeadLetterStore:
    """Implements DeadLetterStore."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def keep(self, letter: DeadLetter) -> None:
        statement = insert(DeadLetterRow).values(**asdict(letter))
        given = statement.excluded
        again = statement.on_conflict_do_update(
            index_elements=["message_id", "queue"],
            set_={
                "status": "open",
                "deaths": col(DeadLetterRow.deaths) + 1,
                "reason": given.reason,
                "error": given.error,
                "attempts": given.attempts,
                "headers": given.headers,
                "last_died_at": given.last_died_at,
            },
        )
        async with self._database.system_unit_of_work() as unit:
            await unit.session.execute(again)

    async def page(
        self, audience: Audience, *, status: str | None, before: Position | None, limit: int
    ) -> list[DeadLetter]:
        place = tuple_(col(DeadLetterRow.last_died_at), col(DeadLetterRow.id))
        query = _visible(audience)
        if status:
            query = query.where(DeadLetterRow.status == status)
        if before:
            query = query.where(place < tuple_(before.recorded_at, before.id))
        query = query.order_by(col(DeadLetterRow.last_died_at).desc(), col(DeadLetterRow.id).desc())
        async with scoped(self._database, audience) as unit:
            rows = (await unit.session.execute(query.limit(limit))).scalars()
            return [_letter(row) for row in rows]

    async def get(self, audience: Audience, letter_id: UUID) -> DeadLetter:
        query = _visible(audience).where(DeadLetterRow.id == letter_id)
        async with scoped(self._database, audience) as unit:
            row = (await unit.session.execute(query)).scalar_one_or_none()
        if row is None:
            raise DeadLetterNotFound
        return _letter(row)

    async def mark_replayed(
        self, audience: Audience, letter: DeadLetter, *, by: str, at: datetime, entry: AuditEntryRecordedV1
    ) -> None:
        # If the message died again since it was read, the row stays open: that death wants its own look.
        statement = (
            update(DeadLetterRow)
            .where(col(DeadLetterRow.id) == letter.id, col(DeadLetterRow.deaths) == letter.deaths)
            .values(status="replayed", replayed_at=at, replayed_by=by)
        )
        async with scoped(self._database, audience) as unit:
            await unit.session.execute(statement)
            unit.emit(entry, organisation_id=audience.organisation_id)


def _visible(audience: Audience) -> SelectOfScalar[DeadLetterRow]:
    own = col(DeadLetterRow.organisation_id) == audience.organisation_id
    return select(DeadLetterRow).where(
        or_(own, col(DeadLetterRow.organisation_id).is_(None)) if audience.installation else own
    )


def _letter(row: DeadLetterRow) -> DeadLetter:
    values = row.model_dump()
    values["status"] = cast("Literal['open', 'replayed']", row.status)
    return DeadLetter(**values)
