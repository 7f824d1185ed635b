"""Turns in PostgreSQL: who may answer what, decided by row locks and epochs."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, Table, and_, bindparam, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_bots.adapters import tables
from kairos_bots.adapters.postgres.clock import DatabaseClock
from kairos_bots.adapters.postgres.rows import bot_of, conversation_of, turn_of, turn_values
from kairos_bots.domain.conversation import HeldTurn
from kairos_bots.domain.turn import Turn, TurnState

_turns: Table = tables.turns
_conversations: Table = tables.conversations
_bots: Table = tables.bots
_t = _turns.c
_busy = _turns.alias("busy")


def _labelled(table: Table, prefix: str) -> list[Any]:
    return [column.label(prefix + column.name) for column in table.c]


_HELD = (*_labelled(_turns, "t_"), *_labelled(_conversations, "c_"), *_labelled(_bots, "b_"))


def _claim() -> Select[Any]:
    """One turn with its conversation and bot. What another transaction holds is skipped, never waited for."""
    return (
        select(*_HELD, func.clock_timestamp().label("now"))
        .join_from(_turns, _conversations, _conversations.c.id == _t.conversation_id)
        .join(_bots, _bots.c.id == _t.bot_id)
        .limit(1)
        .with_for_update(of=[_turns, _conversations], skip_locked=True)
    )


_ANSWERS_ALREADY = exists().where(
    _busy.c.conversation_id == _t.conversation_id,
    _busy.c.state.in_([TurnState.ANSWERING.value, TurnState.REOPENED.value]),
)
_DUE = (
    _claim()
    .where(
        _t.state.in_([TurnState.COLLECTING.value, TurnState.REOPENED.value]),
        _t.due_at <= func.now(),
        or_(_t.state == TurnState.REOPENED.value, ~_ANSWERS_ALREADY),
        _bots.c.desired_state == "running",
        _bots.c.deleted_at.is_(None),
    )
    .order_by(_t.due_at)
)
_OVERDUE = (
    _claim()
    .where(_t.state == TurnState.ANSWERING.value, _t.deadline_at <= func.now())
    .order_by(_t.deadline_at)
)
_COLLECTING = select(_turns).where(
    _t.conversation_id == bindparam("conversation"), _t.state == TurnState.COLLECTING.value
)
_NEW = insert(_turns)
_SAVE = _NEW.on_conflict_do_update(
    index_elements=["id"],
    set_={column.name: _NEW.excluded[column.name] for column in _t if column.name != "id"},
)
_LOCK_CONVERSATION = (
    select(_conversations.c.id).where(_conversations.c.id == bindparam("conversation")).with_for_update()
)
_ONE = (
    select(*_HELD, func.clock_timestamp().label("now"))
    .join_from(_turns, _conversations, _conversations.c.id == _t.conversation_id)
    .join(_bots, _bots.c.id == _t.bot_id)
    .where(_t.id == bindparam("turn"), _t.conversation_id == bindparam("conversation"))
    .with_for_update(of=[_turns])
)


@dataclass(frozen=True)
class PostgresTurns:
    session: AsyncSession
    clock: DatabaseClock

    async def collecting(self, conversation_id: UUID) -> Turn | None:
        found = await self.session.execute(_COLLECTING, {"conversation": conversation_id})
        row = found.mappings().one_or_none()
        return None if row is None else turn_of(row)

    async def save(self, turn: Turn) -> None:
        await self.session.execute(_SAVE, turn_values(turn))

    async def hold_due(self) -> HeldTurn | None:
        return await self._held(_DUE)

    async def hold_overdue(self) -> HeldTurn | None:
        return await self._held(_OVERDUE)

    async def hold(self, conversation_id: UUID, turn_id: UUID) -> HeldTurn | None:
        # The conversation first and alone: everything that changes its turns waits here, and the
        # second statement then sees what they did.
        await self.session.execute(_LOCK_CONVERSATION, {"conversation": conversation_id})
        return await self._held(_ONE, {"conversation": conversation_id, "turn": turn_id})

    async def reopen_of_bot(self, bot_id: UUID) -> int:
        result = await self.session.execute(
            update(_turns)
            .where(_t.bot_id == bot_id, _t.state == TurnState.ANSWERING.value)
            .values(state=TurnState.REOPENED.value, due_at=func.now())
        )
        return result.rowcount if isinstance(result, CursorResult) else 0

    async def postpone(self, turn_id: UUID, wait: timedelta) -> None:
        await self.session.execute(
            update(_turns).where(_t.id == turn_id).values(due_at=func.clock_timestamp() + wait)
        )

    async def count_open(self) -> int:
        query = (
            select(func.count())
            .select_from(_turns.join(_bots, and_(_bots.c.id == _t.bot_id, _bots.c.deleted_at.is_(None))))
            .where(_t.state != TurnState.ANSWERED.value)
        )
        return int((await self.session.execute(query)).scalar_one())

    async def _held(self, query: Select[Any], values: dict[str, Any] | None = None) -> HeldTurn | None:
        row = (await self.session.execute(query, values)).mappings().one_or_none()
        if row is None:
            return None
        self.clock.seen = row["now"]
        return HeldTurn(
            turn=turn_of(row, "t_"),
            conversation=conversation_of(row, "c_"),
            bot=bot_of(row, "b_"),
            now=row["now"],
        )
