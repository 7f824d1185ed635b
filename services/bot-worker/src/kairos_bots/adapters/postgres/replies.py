"""Replies on their way to a channel."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Table, delete, exists, func, insert, or_, select, text, update
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
    .with_for_update(of=[_replies], skip_locked=True)
)


@dataclass(frozen=True)
class PostgresReplies:
    session: AsyncSession
    clock: DatabaseClock

    async def add(self, reply: Reply) -> None:
        await self.session.execute(
            insert(_replies).values(reply_values(reply) | {"not_before": func.clock_timestamp()})
        )

    async def hold_ready(self, limit: int) -> Sequence[Reply]:
        rows = (await self.session.execute(_READY.limit(limit))).mappings()
        return [reply_of(row) for row in rows]

    async def start(self, reply: Reply, token: UUID, lease: timedelta) -> Reply:
        started = replace(
            reply,
            attempts=reply.attempts + 1,
            ambiguous=reply.ambiguous + reply.was_sending,
            claim_token=token,
        )
        await self.session.execute(
            update(_replies)
            .where(_r.id == reply.id)
            .values(
                state="sending",
                attempts=started.attempts,
                ambiguous=started.ambiguous,
                claim_token=token,
                claimed_until=func.clock_timestamp() + lease,
            )
        )
        return started

    async def postpone(self, reply: Reply, wait: timedelta) -> None:
        await self.session.execute(
            update(_replies).where(_r.id == reply.id).values(not_before=func.clock_timestamp() + wait)
        )

    async def owns(self, reply: Reply) -> bool:
        query = (
            select(func.clock_timestamp())
            .where(_r.id == reply.id, _r.claim_token == reply.claim_token, _r.state == "sending")
            .with_for_update()
        )
        now = (await self.session.execute(query)).scalar_one_or_none()
        self.clock.seen = now or self.clock.seen
        return now is not None

    async def finish(
        self, reply: Reply, *, delivery: str, external_message_id: str | None, error: str | None
    ) -> datetime:
        now = await self.clock.now()
        await self.session.execute(
            update(_messages)
            .where(_messages.c.id == reply.id, _messages.c.created_at == reply.created_at)
            .values(
                delivery=delivery,
                external_message_id=external_message_id,
                error=error,
                attempts=reply.attempts,
                ambiguous=reply.ambiguous,
                sent_at=now if delivery == "sent" else None,
            )
        )
        await self.session.execute(delete(_replies).where(_r.id == reply.id))
        return now

    async def try_again(self, reply: Reply, wait: timedelta, reason: str, *, ambiguous: bool) -> None:
        await self.session.execute(
            update(_replies)
            .where(_r.id == reply.id)
            .values(
                state="pending",
                ambiguous=reply.ambiguous + ambiguous,
                last_error=reason,
                claim_token=None,
                claimed_until=None,
                not_before=func.clock_timestamp() + wait,
            )
        )
