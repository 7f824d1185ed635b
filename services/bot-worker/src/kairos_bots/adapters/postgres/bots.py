"""Bots in PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import Table, bindparam, func, insert, select, tuple_, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.ext.asyncio import AsyncSession

from kairos_bots.adapters import tables
from kairos_bots.adapters.postgres.rows import bot_of, bot_values
from kairos_bots.domain.bot import Bot, DesiredState, TelegramUpdates

_bots: Table = tables.bots
_c = _bots.c
_GET = select(_bots).where(_c.id == bindparam("key"), _c.deleted_at.is_(None))
# Messages arriving for the bot only share its key, so they do not wait for this lock.
_GET_LOCKED = _GET.with_for_update(key_share=True)


class PostgresBots:
    def __init__(self, session: AsyncSession) -> None:
        self._session = session

    async def add(self, bot: Bot) -> None:
        await self._session.execute(insert(_bots).values(bot_values(bot) | {"apply_after": func.now()}))

    async def get(self, bot_id: UUID, *, lock: bool = False) -> Bot | None:
        found = await self._session.execute(_GET_LOCKED if lock else _GET, {"key": bot_id})
        row = found.mappings().one_or_none()
        return None if row is None else bot_of(row)

    async def save(self, bot: Bot) -> None:
        values = bot_values(bot) | {"apply_after": func.now()}
        await self._session.execute(update(_bots).where(_c.id == bot.id).values(values))

    async def page(self, after: tuple[datetime, UUID] | None, limit: int) -> Sequence[Bot]:
        query = select(_bots).where(_c.deleted_at.is_(None))
        if after is not None:
            query = query.where(tuple_(_c.created_at, _c.id) < tuple_(*after))
        query = query.order_by(_c.created_at.desc(), _c.id.desc()).limit(limit)
        return [bot_of(row) for row in (await self._session.execute(query)).mappings()]

    async def everything(self) -> Sequence[Bot]:
        query = select(_bots).where(_c.deleted_at.is_(None))
        return [bot_of(row) for row in (await self._session.execute(query)).mappings()]

    async def some(self, bot_ids: Sequence[UUID]) -> Sequence[Bot]:
        query = select(_bots).where(_c.deleted_at.is_(None), _c.id.in_(bot_ids))
        return [bot_of(row) for row in (await self._session.execute(query)).mappings()]

    async def apply_again(self, bot_id: UUID) -> None:
        await self._session.execute(
            update(_bots).where(_c.id == bot_id).values(applied_version=0, apply_after=func.now())
        )

    async def claim_unapplied(self, lease: timedelta) -> Bot | None:
        due = (
            select(_c.id)
            .where(_c.applied_version < _c.version, _c.apply_after <= func.now())
            .order_by(_c.apply_after)
            .limit(1)
            .with_for_update(skip_locked=True, key_share=True)
            .scalar_subquery()
        )
        claim = update(_bots).where(_c.id == due).values(apply_after=func.now() + lease).returning(*_c)
        row = (await self._session.execute(claim)).mappings().one_or_none()
        return None if row is None else bot_of(row)

    async def applied(self, bot: Bot, *, webhook_base: str | None = None) -> bool:
        return await self._observe(bot, applied_version=bot.version, webhook_base=webhook_base)

    async def apply_moved(self, webhook_base: str) -> None:
        moved = (
            _c.telegram_updates == TelegramUpdates.WEBHOOK.value,
            _c.desired_state == DesiredState.RUNNING.value,
            _c.deleted_at.is_(None),
            _c.telegram_token_ciphertext.is_not(None),
            _c.webhook_secret_ciphertext.is_not(None),
            _c.applied_version == _c.version,
            _c.webhook_base.is_distinct_from(webhook_base),
        )
        await self._session.execute(
            update(_bots).where(*moved).values(applied_version=0, apply_after=func.now())
        )

    async def retry_later(self, bot: Bot, wait: timedelta) -> bool:
        return await self._observe(bot, apply_after=func.now() + wait)

    async def _observe(self, bot: Bot, **values: object) -> bool:
        seen = {
            "observed_state": bot.observed_state.value,
            "observed_reason": bot.observed_reason,
            "observed_at": bot.observed_at,
        }
        result = await self._session.execute(
            update(_bots).where(_c.id == bot.id, _c.version == bot.version).values(seen | values)
        )
        return isinstance(result, CursorResult) and result.rowcount == 1
