"""Replies on their way to a channel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    Interval,
    Table,
    Uuid,
    bindparam,
    delete,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_bots.adapters import tables
from kairos_bots.adapters.postgres.clock import DatabaseClock
from kairos_bots.adapters.postgres.rows import reply_of, reply_values
from kairos_bots.domain.conversation import Reply

_replies: Table = tables.replies
_messages: Table = tables.messages
_bots: Table = tables.bots
_r = _replies.c
_earlier = _replies.alias("earlier")

# After PostgreSQL itself was away, senders that know their result get a moment to record it before
# anybody takes their unfinished tries for ambiguous.
_SETTLED = text("now() > pg_postmaster_start_time() + interval '3 seconds'")
_NOT_FIRST = exists().where(
    _earlier.c.conversation_id == _r.conversation_id, _earlier.c.sequence < _r.sequence
)
_READY = (
    select(_replies)
    .join(_bots, _bots.c.id == _r.bot_id)
    .where(
        _r.not_before <= func.now(),
        or_(_r.claimed_until.is_(None), _r.claimed_until <= func.now()),
        or_(_r.state == "pending", _SETTLED),
        or_(_bots.c.desired_state == "running", _bots.c.deleted_at.is_not(None)),
        ~_NOT_FIRST,
    )
    .order_by(_r.not_before)
    .limit(bindparam("most"))
    .with_for_update(of=[_replies], skip_locked=True)
)
_CLOCK = func.clock_timestamp()
_KEY = _r.id == bindparam("key")
_WAIT = bindparam("wait", type_=Interval())
_ADD = insert(_replies).values(not_before=_CLOCK)
_START = (
    update(_replies)
    .where(_KEY)
    .values(
        state="sending",
        attempts=bindparam("tries"),
        ambiguous=bindparam("doubts"),
        claim_token=bindparam("token"),
        claimed_until=_CLOCK + _WAIT,
    )
)
_POSTPONE = update(_replies).where(_KEY).values(not_before=_CLOCK + _WAIT)
_RENEW = (
    update(_replies)
    .where(_r.claim_token == func.any(bindparam("tokens", type_=ARRAY(Uuid()))), _r.state == "sending")
    .values(claimed_until=_CLOCK + _WAIT)
)
_OWNS = (
    select(_CLOCK).where(_KEY, _r.claim_token == bindparam("token"), _r.state == "sending").with_for_update()
)
_RESULT = (
    update(_messages)
    .where(_messages.c.id == bindparam("key"), _messages.c.created_at == bindparam("stored_at"))
    .values(
        delivery=bindparam("result"),
        external_message_id=bindparam("external"),
        error=bindparam("reason"),
        attempts=bindparam("tries"),
        ambiguous=bindparam("doubts"),
        sent_at=bindparam("at"),
    )
)
_DROP = delete(_replies).where(_KEY)
_TRY_AGAIN = (
    update(_replies)
    .where(_KEY)
    .values(
        state="pending",
        ambiguous=bindparam("doubts"),
        last_error=bindparam("reason"),
        claim_token=None,
        claimed_until=None,
        not_before=_CLOCK + _WAIT,
    )
)


@dataclass(frozen=True)
class PostgresReplies:
    session: AsyncSession
    clock: DatabaseClock

    async def add(self, reply: Reply) -> None:
        await self.session.execute(_ADD, reply_values(reply))

    async def hold_ready(self, limit: int) -> Sequence[Reply]:
        rows = (await self.session.execute(_READY, {"most": limit})).mappings()
        return [reply_of(row) for row in rows]

    async def start(self, reply: Reply, token: UUID, lease: timedelta) -> Reply:
        started = replace(
            reply,
            attempts=reply.attempts + 1,
            ambiguous=reply.ambiguous + reply.was_sending,
            claim_token=token,
        )
        values = {
            "key": reply.id,
            "tries": started.attempts,
            "doubts": started.ambiguous,
            "token": token,
            "wait": lease,
        }
        await self.session.execute(_START, values)
        return started

    async def renew(self, claim_tokens: Sequence[UUID], lease: timedelta) -> None:
        await self.session.execute(_RENEW, {"tokens": list(claim_tokens), "wait": lease})

    async def postpone(self, reply: Reply, wait: timedelta) -> None:
        await self.session.execute(_POSTPONE, {"key": reply.id, "wait": wait})

    async def owns(self, reply: Reply) -> bool:
        found = await self.session.execute(_OWNS, {"key": reply.id, "token": reply.claim_token})
        now = found.scalar_one_or_none()
        self.clock.seen = now or self.clock.seen
        return now is not None

    async def finish(
        self, reply: Reply, *, delivery: str, external_message_id: str | None, error: str | None
    ) -> datetime:
        now = await self.clock.now()
        values = {
            "key": reply.id,
            "stored_at": reply.created_at,
            "result": delivery,
            "external": external_message_id,
            "reason": error,
            "tries": reply.attempts,
            "doubts": reply.ambiguous,
            "at": now if delivery == "sent" else None,
        }
        await self.session.execute(_RESULT, values)
        await self.session.execute(_DROP, {"key": reply.id})
        return now

    async def try_again(self, reply: Reply, wait: timedelta, reason: str, *, ambiguous: bool) -> None:
        values = {
            "key": reply.id,
            "doubts": reply.ambiguous + ambiguous,
            "reason": reason,
            "wait": wait,
        }
        await self.session.execute(_TRY_AGAIN, values)
